// npm clients against running doors; run by scripts/test_clients. See python_clients.py for the variables.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const real = process.env.SWARM_REAL + "/v1";
const realModel = process.env.SWARM_REAL_MODEL;
const scripted = process.env.SWARM_SCRIPTED + "/v1";
const scriptedModel = process.env.SWARM_SCRIPTED_MODEL;
const question = "What is the capital of France?";
const messages = [{ role: "user", content: question }];

const weather = tool({
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `21 degrees in ${city}`,
});

function provider(baseURL) {
  return createOpenAICompatible({ name: "swarm", baseURL, apiKey: "k", supportsStructuredOutputs: true });
}

test("openai-node on real nodes: chat, stream and responses say the same", async () => {
  const client = new OpenAI({ baseURL: real, apiKey: "k", maxRetries: 0 });
  const chat = await client.chat.completions.create({ model: realModel, messages, max_tokens: 8, temperature: 0 });
  let streamed = "";
  const stream = client.chat.completions.stream({ model: realModel, messages, max_tokens: 8, temperature: 0 });
  for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
  const response = await client.responses.create({
    model: realModel, input: question, max_output_tokens: 8, temperature: 0,
  });
  assert.match(streamed, /Paris/);
  assert.equal(chat.choices[0].message.content, streamed);
  assert.equal(response.output_text, streamed);
});

test("openai-node: responses.stream and the tool runner", async () => {
  const client = new OpenAI({ baseURL: scripted, apiKey: "k", maxRetries: 0 });
  const response = await client.responses.stream({ model: scriptedModel, input: "Hi" }).finalResponse();
  assert.equal(response.output_text, "Hello, world!");
  const runner = client.chat.completions.runTools({
    model: scriptedModel,
    messages: [{ role: "user", content: "Weather in Paris?" }],
    tools: [{
      type: "function",
      function: {
        name: "get_weather",
        function: ({ city }) => `21 degrees in ${city}`,
        parse: JSON.parse,
        parameters: { type: "object", properties: { city: { type: "string" } } },
      },
    }],
  });
  assert.equal(await runner.finalContent(), "It is 21 degrees in Paris.");
});

test("openai-node: errors are its own classes", async () => {
  const client = new OpenAI({ baseURL: scripted, apiKey: "k", maxRetries: 0 });
  await assert.rejects(client.chat.completions.create({ model: "none", messages }), OpenAI.NotFoundError);
  await assert.rejects(
    client.chat.completions.create({ model: scriptedModel, messages, temperature: 9 }),
    OpenAI.BadRequestError,
  );
});

test("Vercel AI SDK on real nodes: text and an object of a schema", async () => {
  const model = provider(real)(realModel);
  const { text } = await generateText({ model, prompt: question, maxOutputTokens: 8, temperature: 0, maxRetries: 0 });
  assert.match(text, /Paris/);
  const schema = z.object({ name: z.string(), inhabitants: z.number().int() });
  const { object } = await generateObject({
    model, schema, prompt: "Name a city and its inhabitants.", maxOutputTokens: 100, temperature: 0, maxRetries: 0,
  });
  assert.equal(typeof object.name, "string");
});

test("Vercel AI SDK: a streamed tool loop", async () => {
  const result = streamText({
    model: provider(scripted)(scriptedModel),
    prompt: "What is the weather in Paris?",
    tools: { get_weather: weather },
    stopWhen: stepCountIs(3),
    maxRetries: 0,
  });
  assert.equal(await result.text, "It is 21 degrees in Paris.");
  assert.equal((await result.steps).length, 2);
});

async function codex(prompt, ...options) {
  // Codex refuses a home below the folder for temporary files.
  const home = await mkdtemp(join(homedir(), ".codex-test-"));
  try {
    const program = join(dirname(createRequire(import.meta.url).resolve("@openai/codex/package.json")), "bin/codex.js");
    const settings = `model_providers.swarm={name="swarm",base_url="${scripted}",wire_api="responses"}`;
    const running = promisify(execFile)(
      process.execPath,
      [
        program, "exec", "--skip-git-repo-check", "-c", "model_provider=swarm", "-c", settings, "-m", scriptedModel,
        ...options, prompt,
      ],
      { cwd: home, env: { ...process.env, CODEX_HOME: home }, timeout: 120_000 },
    );
    running.child.stdin.end();
    return await running;
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

test("Codex CLI answers over /v1/responses", async () => {
  assert.equal((await codex("Hi")).stdout.trim(), "Hello, world!");
});

test("Codex CLI runs a shell command and sends its output back", async () => {
  // Its sandbox needs kernel features that a container may lack; the command is the scripted door's own.
  const { stdout, stderr } = await codex("Count in the shell", "--dangerously-bypass-approvals-and-sandbox");
  assert.equal(stdout.trim(), "It says: the sum is 42.", stderr);
});
