// The openai package of Sashabaranov for Go: an errand a line on stdin, a note of what came of it a line on stdout.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	openai "github.com/sashabaranov/go-openai"
	"github.com/sashabaranov/go-openai/jsonschema"
)

const (
	piecesBeforeLeaving = 3
	megabyte            = 1 << 20
	result              = "It is fine."
)

type errand struct {
	Do        string  `json:"do"`
	BaseURL   string  `json:"base_url"`
	Key       string  `json:"key"`
	Model     string  `json:"model"`
	Text      string  `json:"text"`
	Megabytes int     `json:"megabytes"`
	Options   options `json:"options"`
}

type options struct {
	Temperature float32 `json:"temperature"`
	MaxTokens   int     `json:"max_tokens"`
	ToolChoice  any     `json:"tool_choice"`
}

type note map[string]any

type weather struct {
	City string `json:"city"`
	Days int    `json:"days"`
}

type clock struct {
	Zone string `json:"zone"`
}

type harbour struct {
	Name   string   `json:"name"`
	Berths int      `json:"berths"`
	Open   bool     `json:"open"`
	Ships  []string `json:"ships"`
}

func (e errand) client() *openai.Client {
	config := openai.DefaultConfig(e.Key)
	config.BaseURL = e.BaseURL
	return openai.NewClientWithConfig(config)
}

func (e errand) request() openai.ChatCompletionRequest {
	return openai.ChatCompletionRequest{
		Model:       e.Model,
		Messages:    []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: e.Text}},
		Temperature: e.Options.Temperature,
		MaxTokens:   e.Options.MaxTokens,
	}
}

func schemaOf(value any) *jsonschema.Definition {
	schema, err := jsonschema.GenerateSchemaForType(value)
	if err != nil {
		panic(err)
	}
	return schema
}

func (e errand) requestWithTools() openai.ChatCompletionRequest {
	request := e.request()
	for _, offered := range []struct {
		name      string
		arguments any
	}{{"weather", weather{}}, {"clock", clock{}}} {
		function := &openai.FunctionDefinition{Name: offered.name, Parameters: schemaOf(offered.arguments)}
		request.Tools = append(request.Tools, openai.Tool{Type: openai.ToolTypeFunction, Function: function})
	}
	if e.Options.ToolChoice != nil {
		request.ToolChoice = e.Options.ToolChoice
	}
	return request
}

func spent(usage openai.Usage) note {
	return note{
		"input":     usage.PromptTokens,
		"cached":    usage.PromptTokensDetails.CachedTokens,
		"output":    usage.CompletionTokens,
		"reasoning": usage.CompletionTokensDetails.ReasoningTokens,
	}
}

func chat(e errand) (note, error) {
	answer, err := e.client().CreateChatCompletion(context.Background(), e.request())
	if err != nil {
		return nil, err
	}
	choice := answer.Choices[0]
	return note{
		"id":         answer.ID,
		"text":       choice.Message.Content,
		"finish":     choice.FinishReason,
		"usage":      spent(answer.Usage),
		"request_id": answer.Header().Get("x-request-id"),
	}, nil
}

func stream(e errand) (note, error) {
	request := e.request()
	request.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	events, err := e.client().CreateChatCompletionStream(context.Background(), request)
	if err != nil {
		return nil, err
	}
	defer events.Close()
	text, noted := "", note{}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			noted["text"] = text
			return noted, nil
		}
		if err != nil {
			return nil, err
		}
		noted["id"] = event.ID
		if event.Usage != nil {
			noted["usage"] = spent(*event.Usage)
		}
		for _, choice := range event.Choices {
			text += choice.Delta.Content
			noted["finish"] = choice.FinishReason
		}
	}
}

func tools(e errand) (note, error) {
	answer, err := e.client().CreateChatCompletion(context.Background(), e.requestWithTools())
	if err != nil {
		return nil, err
	}
	return answerTools(e, answer.Choices[0].Message, answer.Choices[0].FinishReason)
}

func toolsStream(e errand) (note, error) {
	events, err := e.client().CreateChatCompletionStream(context.Background(), e.requestWithTools())
	if err != nil {
		return nil, err
	}
	defer events.Close()
	message := openai.ChatCompletionMessage{Role: openai.ChatMessageRoleAssistant}
	var finish openai.FinishReason
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return answerTools(e, message, finish)
		}
		if err != nil {
			return nil, err
		}
		for _, choice := range event.Choices {
			finish = choice.FinishReason
			for _, fragment := range choice.Delta.ToolCalls {
				if *fragment.Index == len(message.ToolCalls) {
					message.ToolCalls = append(message.ToolCalls, fragment)
					continue
				}
				call := &message.ToolCalls[*fragment.Index].Function
				call.Name += fragment.Function.Name
				call.Arguments += fragment.Function.Arguments
			}
		}
	}
}

func answerTools(e errand, message openai.ChatCompletionMessage, finish openai.FinishReason) (note, error) {
	calls := [][]any{}
	e.Options.ToolChoice = nil
	request := e.requestWithTools()
	request.Messages = append(request.Messages, message)
	for _, call := range message.ToolCalls {
		calls = append(calls, []any{call.Function.Name, json.RawMessage(call.Function.Arguments)})
		told := openai.ChatCompletionMessage{Role: openai.ChatMessageRoleTool, ToolCallID: call.ID, Content: result}
		request.Messages = append(request.Messages, told)
	}
	answer, err := e.client().CreateChatCompletion(context.Background(), request)
	if err != nil {
		return nil, err
	}
	return note{"calls": calls, "finish": finish, "text": answer.Choices[0].Message.Content}, nil
}

func document(e errand) (note, error) {
	schema := schemaOf(harbour{})
	request := e.request()
	request.ResponseFormat = &openai.ChatCompletionResponseFormat{
		Type: openai.ChatCompletionResponseFormatTypeJSONSchema,
		JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{
			Name: "harbour", Schema: schema, Strict: true,
		},
	}
	answer, err := e.client().CreateChatCompletion(context.Background(), request)
	if err != nil {
		return nil, err
	}
	var found harbour
	if err := schema.Unmarshal(answer.Choices[0].Message.Content, &found); err != nil {
		return nil, err
	}
	return note{"document": found}, nil
}

func leave(e errand) (note, error) {
	events, err := e.client().CreateChatCompletionStream(context.Background(), e.request())
	if err != nil {
		return nil, err
	}
	defer events.Close()
	text := ""
	for pieces := 0; pieces < piecesBeforeLeaving; {
		event, err := events.Recv()
		if err != nil {
			return nil, err
		}
		if piece := event.Choices[0].Delta.Content; piece != "" {
			text += piece
			pieces++
		}
	}
	return note{"text": text}, nil
}

func models(e errand) (note, error) {
	listed, err := e.client().ListModels(context.Background())
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, model := range listed.Models {
		ids = append(ids, model.ID)
	}
	one, err := e.client().GetModel(context.Background(), e.Model)
	return note{"models": ids, "one": one.ID}, err
}

func embed(e errand) (note, error) {
	request := openai.EmbeddingRequestStrings{Model: openai.EmbeddingModel(e.Model), Input: []string{e.Text, e.Text}}
	answer, err := e.client().CreateEmbeddings(context.Background(), request)
	if err != nil {
		return nil, err
	}
	vectors := [][]float32{}
	for _, item := range answer.Data {
		vectors = append(vectors, item.Embedding)
	}
	return note{"vectors": vectors, "usage": note{"input": answer.Usage.PromptTokens}}, nil
}

func complete(e errand) (note, error) {
	request := openai.CompletionRequest{Model: e.Model, Prompt: e.Text, MaxTokens: e.Options.MaxTokens}
	answer, err := e.client().CreateCompletion(context.Background(), request)
	if err != nil {
		return nil, err
	}
	choice := answer.Choices[0]
	return note{"text": choice.Text, "finish": choice.FinishReason, "usage": spent(*answer.Usage)}, nil
}

func completeStream(e errand) (note, error) {
	request := openai.CompletionRequest{Model: e.Model, Prompt: e.Text, MaxTokens: e.Options.MaxTokens}
	request.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	events, err := e.client().CreateCompletionStream(context.Background(), request)
	if err != nil {
		return nil, err
	}
	defer events.Close()
	text, noted := "", note{}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			noted["text"] = text
			return noted, nil
		}
		if err != nil {
			return nil, err
		}
		if event.Usage != nil {
			noted["usage"] = spent(*event.Usage)
		}
		for _, choice := range event.Choices {
			text += choice.Text
			noted["finish"] = choice.FinishReason
		}
	}
}

func described(err error) note {
	told := note{"class": fmt.Sprintf("%T", err), "message": err.Error()}
	var refusal *openai.APIError
	if errors.As(err, &refusal) {
		told["class"], told["status_code"], told["code"] = "APIError", refusal.HTTPStatusCode, refusal.Code
		told["type"], told["param"], told["message"] = refusal.Type, refusal.Param, refusal.Message
	}
	return told
}

func main() {
	operations := map[string]func(errand) (note, error){
		"chat": chat, "stream": stream, "tools": tools, "tools_stream": toolsStream,
		"document": document, "leave": leave, "models": models,
		"embed": embed, "complete": complete, "complete_stream": completeStream,
	}
	lines := bufio.NewScanner(os.Stdin)
	notes := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked errand
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		asked.Text += strings.Repeat("x", asked.Megabytes*megabyte)
		begun := time.Now()
		noted, err := operations[asked.Do](asked)
		if err != nil {
			noted = note{"error": described(err)}
		}
		noted["seconds"] = time.Since(begun).Seconds()
		if err := notes.Encode(noted); err != nil {
			panic(err)
		}
	}
}
