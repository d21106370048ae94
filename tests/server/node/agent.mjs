// The AI SDK's default: the Responses API, whose earlier items it refers to by id.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none" });
const model = openai("tiny");
const weather = tool({
  description: "Tell the weather",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `42 degrees in ${city}`,
});
const question = { role: "user", content: "What is the weather in Rome?" };

const first = await generateText({ model, messages: [question], tools: { weather }, stopWhen: stepCountIs(3) });
const messages = [question, ...first.response.messages, { role: "user", content: "And then?" }];
const second = await generateText({ model, messages, tools: { weather } });
const streamed = streamText({ model, messages: [question], tools: { weather }, stopWhen: stepCountIs(3) });
let text = "";
for await (const part of streamed.textStream) text += part;
const object = await generateText({
  model: openai.chat("tiny"),
  prompt: "As an object.",
  output: Output.object({ schema: z.object({ degrees: z.number() }) }),
});
const both = await generateText({
  model,
  messages: [question],
  tools: { weather },
  stopWhen: stepCountIs(3),
  output: Output.object({ schema: z.object({ degrees: z.number() }) }),
});
const printed = { first: first.text, second: second.text, streamed: text, object: object.output, both: both.output };
console.log(JSON.stringify(printed));
