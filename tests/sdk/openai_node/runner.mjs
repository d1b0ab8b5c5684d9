// The openai package for Node.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { CLOCK, HARBOUR, PIECES_BEFORE_LEAVING, RESULT, WEATHER, serve } from "./loop.mjs";

const TOOLS = [
  { type: "function", function: { name: "weather", parameters: z.toJSONSchema(WEATHER) } },
  { type: "function", function: { name: "clock", parameters: z.toJSONSchema(CLOCK) } },
];

function client({ base_url, key, retries }) {
  return new OpenAI({ baseURL: base_url, apiKey: key, maxRetries: retries });
}

function spent(usage) {
  return usage && {
    input: usage.prompt_tokens,
    cached: usage.prompt_tokens_details.cached_tokens,
    output: usage.completion_tokens,
    reasoning: usage.completion_tokens_details.reasoning_tokens,
  };
}

function called(calls) {
  return calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
}

async function chat(errand) {
  const { model, messages, options } = errand;
  const answer = await client(errand).chat.completions.create({ model, messages, ...options });
  const [choice] = answer.choices;
  return {
    id: answer.id,
    text: choice.message.content,
    finish: choice.finish_reason,
    usage: spent(answer.usage),
    request_id: answer._request_id,
  };
}

async function stream(errand) {
  const { model, messages, options } = errand;
  const asked = { model, messages, stream: true, stream_options: { include_usage: true }, ...options };
  const note = { text: "" };
  for await (const event of await client(errand).chat.completions.create(asked)) {
    note.id = event.id;
    note.usage = spent(event.usage);
    for (const choice of event.choices) {
      note.text += choice.delta.content ?? "";
      note.finish = choice.finish_reason;
    }
  }
  return note;
}

async function tools(errand) {
  const { model, messages, options } = errand;
  return answerTools(errand, await client(errand).chat.completions.create({ model, messages, tools: TOOLS, ...options }));
}

// With the helper that puts fragments together, and is strict about them.
async function toolsStream(errand) {
  const { model, messages, options } = errand;
  const events = client(errand).chat.completions.stream({ model, messages, tools: TOOLS, ...options });
  return answerTools(errand, await events.finalChatCompletion());
}

async function answerTools(errand, asked) {
  const { message, finish_reason: finish } = asked.choices[0];
  const results = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: RESULT }));
  const messages = [...errand.messages, message, ...results];
  const answer = await client(errand).chat.completions.create({ model: errand.model, messages, tools: TOOLS });
  return { calls: called(message.tool_calls), finish, text: answer.choices[0].message.content };
}

async function document(errand) {
  const { model, messages } = errand;
  const asked = { model, messages, response_format: zodResponseFormat(HARBOUR, "harbour") };
  const answer = await client(errand).chat.completions.parse(asked);
  return { document: answer.choices[0].message.parsed };
}

async function leave(errand) {
  const { model, messages } = errand;
  const texts = [];
  for await (const event of await client(errand).chat.completions.create({ model, messages, stream: true })) {
    texts.push(...event.choices.map((choice) => choice.delta.content).filter(Boolean));
    if (texts.length === PIECES_BEFORE_LEAVING) break;
  }
  return { text: texts.join("") };
}

async function models(errand) {
  const openai = client(errand);
  const listed = [];
  for await (const model of openai.models.list()) listed.push(model.id);
  return { models: listed, one: (await openai.models.retrieve(errand.model)).id };
}

function described(error) {
  const { status, code, type, param, requestID } = error;
  return {
    class: error.constructor.name,
    message: error.message,
    status_code: status,
    code,
    type,
    param,
    request_id: requestID,
  };
}

await serve({ chat, stream, tools, tools_stream: toolsStream, document, leave, models }, described);
