// Vercel's AI SDK with its provider for servers that speak as OpenAI's.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { CLOCK, HARBOUR, PIECES_BEFORE_LEAVING, RESULT, WEATHER, serve } from "./loop.mjs";

const TOOLS = {
  weather: tool({ inputSchema: WEATHER, execute: async () => RESULT }),
  clock: tool({ inputSchema: CLOCK, execute: async () => RESULT }),
};

function provider(errand) {
  return createOpenAICompatible({
    name: "flint",
    baseURL: errand.base_url,
    apiKey: errand.key,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
}

function asked(errand) {
  const { temperature, max_tokens: maxOutputTokens } = errand.options;
  return {
    model: provider(errand)(errand.model),
    prompt: errand.text,
    maxRetries: errand.retries,
    temperature,
    maxOutputTokens,
    onError: () => {}, // It would write to stderr what the stream also tells.
  };
}

function noted(text, finish, usage, response) {
  return {
    id: response.id,
    text,
    finish: finish.replace("-", "_"),
    usage: {
      input: usage.inputTokens,
      cached: usage.inputTokenDetails.cacheReadTokens,
      output: usage.outputTokens,
      reasoning: usage.outputTokenDetails.reasoningTokens,
    },
  };
}

async function chat(errand) {
  const { text, finishReason, usage, response } = await generateText(asked(errand));
  return noted(text, finishReason, usage, response);
}

function stream(errand) {
  return notedStream(streamText(asked(errand)));
}

async function notedStream(streamed) {
  let text = "";
  for await (const part of streamed.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  return noted(text, await streamed.finishReason, await streamed.usage, await streamed.response);
}

// Asks, runs the tools, and tells the model what they found, all by itself; only the first step must call one.
function withTools(errand) {
  const toolChoice = errand.options.tool_choice ?? "auto";
  return {
    ...asked(errand),
    tools: TOOLS,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? toolChoice : "auto" }),
  };
}

function notedSteps(steps) {
  return {
    calls: steps[0].toolCalls.map((call) => [call.toolName, call.input]),
    finish: steps[0].finishReason.replace("-", "_"),
    text: steps[1].text,
  };
}

async function tools(errand) {
  const { steps } = await generateText(withTools(errand));
  return notedSteps(steps);
}

async function toolsStream(errand) {
  const streamed = streamText(withTools(errand));
  await streamed.consumeStream();
  return notedSteps(await streamed.steps);
}

async function document(errand) {
  const { output } = await generateText({ ...asked(errand), output: Output.object({ schema: HARBOUR }) });
  return { document: output };
}

async function leave(errand) {
  const controller = new AbortController();
  const texts = [];
  for await (const piece of streamText({ ...asked(errand), abortSignal: controller.signal }).textStream) {
    texts.push(piece);
    if (texts.length === PIECES_BEFORE_LEAVING) controller.abort();
  }
  return { text: texts.slice(0, PIECES_BEFORE_LEAVING).join("") };
}

async function embed(errand) {
  const model = provider(errand).textEmbeddingModel(errand.model);
  const { embeddings, usage } = await embedMany({ model, values: [errand.text, errand.text], maxRetries: errand.retries });
  return { vectors: embeddings, usage: { input: usage.tokens } };
}

function askedPlainly(errand) {
  return { ...asked(errand), model: provider(errand).completionModel(errand.model) };
}

async function complete(errand) {
  const { text, finishReason, usage, response } = await generateText(askedPlainly(errand));
  return noted(text, finishReason, usage, response);
}

function completeStream(errand) {
  return notedStream(streamText(askedPlainly(errand)));
}

// What breaks a stream is told as a part of it: our error, as it came.
function described(error) {
  const { code, type, param } = error.data?.error ?? error;
  return {
    class: error.name ?? error.constructor.name,
    message: error.message,
    status_code: error.statusCode,
    code,
    type,
    param,
    request_id: error.responseHeaders?.["x-request-id"],
  };
}

const operations = { chat, stream, tools, tools_stream: toolsStream, document, leave };
await serve({ ...operations, embed, complete, complete_stream: completeStream }, described);
