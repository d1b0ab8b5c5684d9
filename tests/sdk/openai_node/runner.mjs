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

// In base64 on the wire, which nobody asked for.
async function embed(errand) {
  const { model, text, options } = errand;
  const answer = await client(errand).embeddings.create({ model, input: [text, text], ...options });
  return { vectors: answer.data.map((item) => item.embedding), usage: { input: answer.usage.prompt_tokens } };
}

async function complete(errand) {
  const { model, text, options } = errand;
  const answer = await client(errand).completions.create({ model, prompt: text, ...options });
  const [choice] = answer.choices;
  return { text: choice.text, finish: choice.finish_reason, usage: spent(answer.usage) };
}

async function completeStream(errand) {
  const { model, text, options } = errand;
  const asked = { model, prompt: text, stream: true, stream_options: { include_usage: true }, ...options };
  const note = { text: "" };
  for await (const event of await client(errand).completions.create(asked)) {
    note.usage = spent(event.usage);
    for (const choice of event.choices) {
      note.text += choice.text;
      note.finish = choice.finish_reason;
    }
  }
  return note;
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

const operations = { chat, stream, tools, tools_stream: toolsStream, document, leave, models };
await serve({ ...operations, embed, complete, complete_stream: completeStream }, described);
