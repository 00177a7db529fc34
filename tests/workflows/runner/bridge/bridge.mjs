// GitHub's own packages behind a pipe: one JSON request per line in, one JSON answer per line out.
//
//   {"op": "parse", "name": path, "content": text, "kind": "workflow" | "action", "others": {path: text}}
//   {"op": "resolve", "node": tree, "contexts": {...}, "status": {...}, "workspace": folder}
//
// A tree is the file as plain JSON, an expression in it {"${{": text, "allowed": [...], "line": n}.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import { data, Evaluator, Lexer, Parser } from "@actions/expressions";
import { convertWorkflowTemplate, NoOperationTraceWriter, parseWorkflow } from "@actions/workflow-parser";
import { convertActionTemplate } from "@actions/workflow-parser/actions/action-template";
import { parseAction } from "@actions/workflow-parser/actions/action-parser";
import { ErrorPolicy } from "@actions/workflow-parser/model/convert";
import { ensureStatusFunction } from "@actions/workflow-parser/model/converter/if-condition";
import { splitAllowedContext } from "@actions/workflow-parser/templates/allowed-context";
import { isBasicExpression, isMapping, isSequence, isString } from "@actions/workflow-parser/templates/tokens/type-guards";
import { fileIdentifier } from "@actions/workflow-parser/workflows/file-reference";

const MARK = "${{";
const CONDITIONS = new Set(["job-if", "step-if"]);
const trace = new NoOperationTraceWriter();

async function parse({ name, content, kind, others }) {
  const read = kind === "action" ? parseAction : parseWorkflow;
  const { context, value } = read({ name, content }, trace);
  // Conversion is asked for its judgement alone (needs, ids, inputs of a called workflow): it drops parts of the file.
  if (value && kind === "action") {
    convertActionTemplate(context, value, { errorPolicy: ErrorPolicy.TryConversion });
  } else if (value) {
    const files = { getFileContent: async (reference) => file(reference, others) };
    const options = { errorPolicy: ErrorPolicy.TryConversion, fetchReusableWorkflowDepth: 1 };
    await convertWorkflowTemplate(context, value, files, options);
  }
  const errors = context.errors.getErrors().map((error) => error.message);
  return { errors: [...new Set(errors)], tree: value === undefined ? null : tree(value) };
}

function file(reference, others) {
  const content = others[reference.path];
  if (content === undefined || "repository" in reference) {
    throw new Error(`there is no ${reference.path}`);
  }
  return { name: fileIdentifier(reference), content };
}

function tree(token, definition = token.definition?.key) {
  if (CONDITIONS.has(definition)) {
    const text = isBasicExpression(token) ? token.expression : token.toDisplayString().trim() && token.value.trim();
    return expression(token, ensureStatusFunction(text || "success()", token.definitionInfo));
  }
  if (isBasicExpression(token)) {
    return expression(token, token.expression);
  }
  if (token.isExpression) {
    throw new Error(`line ${token.line}: the runner does not know this kind of expression`);
  }
  if (isSequence(token)) {
    return [...token].map((item) => tree(item));
  }
  if (isMapping(token)) {
    const result = {};
    for (const { key, value } of token) {
      if (!isString(key)) {
        throw new Error(`line ${key.line}: the runner does not know expressions as keys`);
      }
      result[key.value] = tree(value);
    }
    Object.defineProperty(result, "toJSON", {
      enumerable: false,
      value() {
        return { ...this, "#line": token.line };
      },
    });
    return result;
  }
  return token.value ?? null;
}

function expression(token, text) {
  return { [MARK]: text, allowed: token.definitionInfo?.allowedContext ?? [], line: token.line };
}

function resolve({ node, contexts, status, workspace }) {
  return walk(node, (found) => evaluate(found, contexts, status, workspace));
}

function walk(node, each) {
  if (Array.isArray(node)) {
    return node.map((item) => walk(item, each));
  }
  if (node === null || typeof node !== "object") {
    return node;
  }
  if (MARK in node) {
    return each(node);
  }
  return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, walk(value, each)]));
}

function evaluate({ [MARK]: text, allowed, line }, contexts, status, workspace) {
  const { namedContexts, functions } = splitAllowedContext(allowed);
  const parsed = new Parser(new Lexer(text).lex().tokens, namedContexts, functions).parse();
  const known = new data.Dictionary();
  for (const name of namedContexts) {
    if (name in contexts) {
      known.add(name, JSON.parse(JSON.stringify(contexts[name]), data.reviver));
    }
  }
  const get = known.get.bind(known);
  known.get = (name) => {
    const value = get(name);
    if (value === undefined) {
      throw new Error(`line ${line}: the runner does not fill the context '${name}' here: ${text}`);
    }
    return value;
  };
  const own = new Map(functions.map((each) => [each.name.toLowerCase(), { ...each, call: caller(each.name, status, workspace) }]));
  try {
    return JSON.parse(JSON.stringify(new Evaluator(parsed, known, own).evaluate(), data.replacer));
  } catch (error) {
    throw new Error(`line ${line}: ${text}: ${error.message}`);
  }
}

function caller(name, status, workspace) {
  if (name.toLowerCase() === "hashfiles") {
    return (...patterns) => new data.StringData(hashFiles(workspace, patterns.map((each) => each.coerceString())));
  }
  return (...wanted) => {
    if (wanted.length || !(name in status)) {
      throw new Error(`the runner does not know ${name}(${wanted.length ? "…" : ""})`);
    }
    return new data.BooleanData(status[name]);
  };
}

// The hash of the hashes of all files that match, as GitHub's runner takes it; nothing where none does.
function hashFiles(workspace, patterns) {
  const wanted = patterns.map((text) => ({ not: text.startsWith("!"), rule: rule(text.replace(/^!/, "")) }));
  const all = createHash("sha256");
  let count = 0;
  for (const path of files(workspace).sort()) {
    const name = relative(workspace, path);
    if (wanted.reduce((is, { not, rule }) => (rule.test(name) ? !not : is), false)) {
      all.update(createHash("sha256").update(readFileSync(path)).digest());
      count += 1;
    }
  }
  return count ? all.digest("hex") : "";
}

function rule(pattern) {
  const parts = pattern.split(/(\*\*\/|\*\*|\*|\?)/).map((part) => {
    return { "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]" }[part] ?? part.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  });
  return new RegExp(`^${parts.join("")}$`);
}

function files(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? files(path) : entry.isFile() ? [path] : [];
  });
}

const operations = { parse, resolve };

async function main() {
  for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
      const request = JSON.parse(line);
      answer = { result: await operations[request.op](request) };
    } catch (error) {
      answer = { error: error.message };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

main();
