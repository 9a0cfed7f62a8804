// The chat page: state, streaming and language. Everything a model or a person wrote is put into
// the page as text (textContent), never as HTML.
"use strict";

const LANGUAGES = ["es", "pt", "en"];
const state = {
  language: "es",
  theme: "auto",
  settings: {},
  server: null, // what /health said last
  online: null, // whether it said so the last time; null before the first
  key: "",
  messages: [], // {role, content} as sent
  running: null, // AbortController of the answer under way
};

/* Storage may be forbidden (private windows); the page then forgets, and works. */
function remember(storage, name, value) {
  try {
    if (value === null) window[storage].removeItem("milpa." + name);
    else window[storage].setItem("milpa." + name, value);
  } catch { /* nothing is kept */ }
}

function recall(storage, name) {
  try {
    return window[storage].getItem("milpa." + name);
  } catch {
    return null;
  }
}

function chooseLanguage() {
  const kept = recall("localStorage", "language");
  if (LANGUAGES.includes(kept)) return kept;
  for (const wanted of navigator.languages || [navigator.language]) {
    const language = String(wanted).slice(0, 2).toLowerCase();
    if (LANGUAGES.includes(language)) return language;
  }
  return "es";
}

function readSettings() {
  try {
    const kept = JSON.parse(recall("localStorage", "settings"));
    return kept && typeof kept === "object" ? kept : {};
  } catch {
    return {};
  }
}

state.language = chooseLanguage();
state.settings = readSettings();
state.key = recall("sessionStorage", "key") || "";
applyTheme(recall("localStorage", "theme"));
document.documentElement.lang = state.language;
document.addEventListener("DOMContentLoaded", start);

function applyTheme(theme) {
  state.theme = ["light", "dark"].includes(theme) ? theme : "auto";
  if (state.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = state.theme;
}

const find = (id) => document.getElementById(id);

function say(name, values = {}) {
  const text = STRINGS[state.language][name];
  return text.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
}

function number(value, digits = 0) {
  return new Intl.NumberFormat(state.language, { maximumFractionDigits: digits }).format(value);
}

function isBase() {
  return state.server?.chat_format === "continuation";
}

/* --- Words on the page -------------------------------------------------------------------- */

function showWords() {
  document.documentElement.lang = state.language;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
    if (element.tagName === "BUTTON") element.title = say(element.dataset.label);
  }
  find("input").placeholder = say(isBase() ? "placeholderBase" : "placeholderChat");
  find("welcome-title").textContent = say(isBase() ? "welcomeTitleBase" : "welcomeTitleChat");
  find("welcome-text").textContent = say(isBase() ? "welcomeBase" : "welcomeChat");
  find("base-note").hidden = !isBase();
  find("language").value = state.language;
  showModel();
  showSuggestions();
  showSettings();
  for (const element of document.querySelectorAll(".message")) element.retranslate?.();
  inputChanged();
}

function showModel() {
  const model = find("model");
  const status = { true: "ready", false: "failed", null: "loading" }[state.online];
  model.dataset.state = status;
  model.textContent = state.online ? state.server.model : say(state.online === null ? "loadingModel" : "noModel");
  model.title = state.server?.model ?? "";
}

function showSuggestions() {
  const list = find("suggestions");
  list.replaceChildren();
  for (const idea of STRINGS[state.language][isBase() ? "ideasBase" : "ideasChat"]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = idea;
    button.addEventListener("click", () => {
      find("input").value = idea;
      inputChanged();
      find("input").focus();
    });
    list.append(button);
  }
}

/* --- Settings ----------------------------------------------------------------------------- */

function setting(name) {
  const server = state.server?.defaults ?? { temperature: 0.8, max_tokens: 512 };
  switch (name) {
    case "temperature": return state.settings.temperature ?? server.temperature;
    case "maxTokens": return state.settings.maxTokens ?? null;
    default: return state.settings.seed ?? null;
  }
}

function showSettings() {
  find("temperature").value = setting("temperature");
  find("temperature-value").textContent = number(setting("temperature"), 2);
  find("max-tokens").value = setting("maxTokens") ?? "";
  find("max-tokens").placeholder = String(state.server?.defaults.max_tokens ?? 512);
  if (state.server) find("max-tokens").max = String(state.server.context_length);
  find("seed").value = setting("seed") ?? "";
  find("theme").value = state.theme;
}

function keepSettings() {
  const whole = (id, least) => {
    const value = Number.parseInt(find(id).value, 10);
    return Number.isSafeInteger(value) && value >= least ? value : undefined;
  };
  state.settings = {
    ...state.settings,
    maxTokens: whole("max-tokens", 1),
    seed: whole("seed", 0),
  };
  remember("localStorage", "settings", JSON.stringify(state.settings));
}

/* --- Talking to the server ---------------------------------------------------------------- */

/* A failure with a name in STRINGS and what fills it in. */
class Problem extends Error {
  constructor(name, values = {}) {
    super(name);
    this.values = values;
  }
}

function headers() {
  const all = { "Content-Type": "application/json" };
  if (state.key) all.Authorization = "Bearer " + state.key;
  return all;
}

async function askHealth() {
  try {
    const response = await fetch("health", { cache: "no-store" });
    if (!response.ok) throw new Error(String(response.status));
    state.server = await response.json();
    state.online = true;
  } catch {
    state.online = false;
  }
  showWords();
}

async function problemOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* not this server's words */ }
  const message = String(error.message ?? response.statusText ?? response.status);
  if (response.status === 401) return new Problem("errorKey");
  if (response.status === 429) {
    return new Problem("errorBusy", { n: response.headers.get("Retry-After") ?? "5" });
  }
  if (response.status === 413) return new Problem("errorTooLarge");
  return problemOfError({ ...error, message }, response.status);
}

function problemOfError(error, status) {
  const message = String(error.message ?? "");
  switch (error.code) {
    case "context_length_exceeded": {
      const [prompt, max, limit] = message.match(/\d+/g) ?? [];
      return limit
        ? new Problem("errorTooLong", { prompt, max, limit })
        : new Problem("errorTooLongPlain");
    }
    case "timeout": return new Problem("errorTime");
    case "shutting_down": return new Problem("errorClosing");
    default: return new Problem(status < 500 ? "errorRequest" : "errorServer", { message });
  }
}

/* Reads server-sent events: calls onData with the text of each `data:` line. */
async function readEvents(body, onData) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) onData(line.slice(6));
    }
  }
}

/* Asks for an answer and hands its text over as it comes. Returns {reason, tokens, seconds}. */
async function ask(messages, signal, onText) {
  const request = {
    messages,
    stream: true,
    stream_options: { include_usage: true },
    temperature: setting("temperature"),
  };
  if (setting("maxTokens")) request.max_tokens = setting("maxTokens");
  if (setting("seed") !== null) request.seed = setting("seed");
  let response;
  try {
    response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      body: JSON.stringify(request),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem("errorOffline");
  }
  if (!response.ok) throw await problemOf(response);
  let reason = null;
  let tokens = null;
  let begun = null;
  try {
    await readEvents(response.body, (data) => {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw problemOfError(chunk.error, 500);
      const choice = chunk.choices?.[0];
      reason = choice?.finish_reason ?? reason;
      tokens = chunk.usage?.completion_tokens ?? tokens;
      const text = choice?.delta?.content;
      if (text) {
        begun ??= performance.now();
        onText(text);
      }
    });
  } catch (error) {
    if (signal.aborted || error instanceof Problem) throw error;
    throw new Problem("errorCut");
  }
  if (reason === null) throw new Problem("errorCut");
  const seconds = begun === null ? 0 : (performance.now() - begun) / 1000;
  return { reason, tokens, seconds };
}

/* --- Messages ----------------------------------------------------------------------------- */

function addMessage(role) {
  const message = document.createElement("article");
  message.className = "message " + role;
  const speaker = document.createElement("span");
  speaker.className = "visually-hidden";
  const text = document.createElement("div");
  text.className = "text";
  message.append(speaker, text);
  message.text = text;
  message.retranslate = () => {
    speaker.textContent = say(role === "user" ? "you" : "answer") + ": ";
    message.showMeta?.();
  };
  message.retranslate();
  find("log").append(message);
  find("welcome").hidden = true;
  return message;
}

function showProblem(message, problem) {
  const box = document.createElement("div");
  box.className = "problem";
  box.setAttribute("role", "alert");
  const words = document.createElement("span");
  const button = (onClick) => {
    const made = document.createElement("button");
    made.type = "button";
    made.addEventListener("click", () => { if (!state.running) onClick(); });
    return made;
  };
  const again = button(() => {
    message.remove();
    answer();
  });
  const edit = button(() => editLast(message));
  box.append(words, again, edit);
  message.append(box);
  message.dataset.state = "failed";
  message.showMeta = () => {
    words.textContent = say(problem.message, problem.values);
    again.textContent = say("retry");
    edit.textContent = say("edit");
  };
  message.showMeta();
}

/* Takes the unanswered message back into the input. */
function editLast(failed) {
  const input = find("input");
  if (state.messages.at(-1)?.role === "user") {
    const taken = state.messages.pop().content;
    if (input.value.trim() === "") input.value = taken;
    failed.previousElementSibling?.remove();
  }
  failed.remove();
  find("welcome").hidden = find("log").childElementCount > 0;
  inputChanged();
  input.focus();
}

function showMeta(message, outcome) {
  const meta = document.createElement("div");
  meta.className = "meta";
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "text-button copy";
  copy.addEventListener("click", () => copyText(message.text.textContent, copy));
  const notes = document.createElement("span");
  meta.append(copy, notes);
  message.append(meta);
  message.showMeta = () => {
    copy.textContent = say("copy");
    const parts = [];
    if (outcome.tokens !== null) {
      parts.push(say(outcome.tokens === 1 ? "oneToken" : "tokens", { n: number(outcome.tokens) }));
    }
    if (outcome.tokens > 1 && outcome.seconds > 0) {
      // The clock starts at the first token.
      const speed = (outcome.tokens - 1) / outcome.seconds;
      parts.push(say("speed", { n: number(speed, speed < 10 ? 1 : 0) }));
    }
    if (outcome.reason === "length") parts.push(say("limit"));
    if (outcome.reason === "stopped") parts.push(say("stopped"));
    notes.textContent = parts.join(" · ");
  };
  message.showMeta();
}

async function copyText(text, button) {
  let copied = false;
  try {
    await navigator.clipboard.writeText(text);
    copied = true;
  } catch {
    // Without HTTPS the clipboard is closed to pages, except in this old way.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    copied = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const word = say(copied ? "copied" : "copyFailed");
  button.textContent = word;
  find("status").textContent = word;
  setTimeout(() => { button.textContent = say("copy"); }, 1600);
}

/* Stays at the end while text comes, unless the person has scrolled up. */
function isAtEnd() {
  const scroll = find("scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
}

function goToEnd() {
  const scroll = find("scroll");
  scroll.scrollTop = scroll.scrollHeight;
}

function setRunning(controller) {
  state.running = controller;
  const hadFocus = document.activeElement === find("stop") || document.activeElement === find("send");
  find("send").hidden = controller !== null;
  find("stop").hidden = controller === null;
  if (hadFocus) find("input").focus();
}

async function answer() {
  const controller = new AbortController();
  setRunning(controller);
  const message = addMessage("assistant");
  message.dataset.state = "streaming";
  const waiting = setTimeout(() => {
    if (message.text.textContent === "") find("status").textContent = say("waiting");
  }, 3000);
  find("status").textContent = say("writing");
  goToEnd();
  // A model that only continues text begins afresh with each beginning.
  const messages = isBase() ? state.messages.slice(-1) : state.messages.slice();
  const isCurrent = () => message.isConnected;
  let text = "";
  let pieces = 0;
  const began = { at: null };
  const onText = (piece) => {
    if (!isCurrent()) return;
    const follow = isAtEnd();
    began.at ??= performance.now();
    pieces += 1;
    text += piece;
    message.text.append(piece);
    if (follow) goToEnd();
  };
  let outcome = null;
  let problem = null;
  try {
    outcome = await ask(messages, controller.signal, onText);
  } catch (error) {
    if (controller.signal.aborted) {
      // A piece is a token, near enough, where the server could no longer say.
      const seconds = began.at === null ? 0 : (performance.now() - began.at) / 1000;
      outcome = { reason: "stopped", tokens: pieces, seconds };
    } else {
      problem = error instanceof Problem ? error : new Problem("errorServer", { message: error.message });
    }
  }
  clearTimeout(waiting);
  if (state.running === controller) setRunning(null);
  if (!isCurrent()) return; // a new conversation was begun meanwhile
  const follow = isAtEnd();
  message.text.normalize();
  if (problem) {
    showProblem(message, problem);
    find("status").textContent = "";
    if (problem.message === "errorKey") askKey();
    if (problem.message === "errorOffline" || problem.message === "errorCut") askHealth();
  } else {
    message.dataset.state = outcome.reason === "stopped" ? "stopped" : "done";
    if (text === "" && outcome.reason !== "stopped") {
      message.text.textContent = say("empty");
      message.text.classList.add("waiting");
    }
    if (text !== "") state.messages.push({ role: "assistant", content: text });
    showMeta(message, outcome);
    find("status").textContent =
      outcome.reason === "stopped" ? say("stopped") : say("finished") + ". " + text;
    if (!state.online) askHealth();
  }
  if (follow) goToEnd();
}

function send() {
  const input = find("input");
  const content = input.value;
  if (state.running || content.trim() === "") return;
  for (const stale of document.querySelectorAll(".problem button")) stale.remove();
  state.messages.push({ role: "user", content });
  addMessage("user").text.textContent = content;
  input.value = "";
  inputChanged();
  answer();
}

function newConversation() {
  state.running?.abort();
  setRunning(null);
  state.messages = [];
  find("log").replaceChildren();
  find("welcome").hidden = false;
  find("status").textContent = "";
  find("input").focus();
}

function inputChanged() {
  const input = find("input");
  find("send").disabled = input.value.trim() === "";
  input.style.height = "auto";
  input.style.height = input.scrollHeight + "px";
}

/* --- The server's key --------------------------------------------------------------------- */

function askKey() {
  find("key-error").hidden = state.key === "";
  find("key").value = "";
  if (!find("key-dialog").open) find("key-dialog").showModal();
}

async function tryKey(event) {
  event.preventDefault();
  state.key = find("key").value.trim();
  let response;
  try {
    response = await fetch("v1/models", { headers: headers() });
  } catch {
    find("key-dialog").close();
    return askHealth();
  }
  if (response.status === 401) return askKey();
  remember("sessionStorage", "key", state.key);
  find("key-dialog").close();
  find("input").focus();
}

/* --- Start -------------------------------------------------------------------------------- */

function start() {
  showWords();
  inputChanged();
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  find("input").addEventListener("input", inputChanged);
  find("input").addEventListener("keydown", (event) => {
    // On a touch keyboard, Enter makes a line; there the button sends.
    const touch = window.matchMedia("(pointer: coarse)").matches;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) state.running?.abort();
  });
  find("stop").addEventListener("click", () => state.running?.abort());
  find("new").addEventListener("click", newConversation);
  find("language").addEventListener("change", (event) => {
    state.language = event.target.value;
    remember("localStorage", "language", state.language);
    showWords();
  });
  find("open-settings").addEventListener("click", () => {
    showSettings();
    find("settings").showModal();
  });
  find("temperature").addEventListener("input", (event) => {
    state.settings.temperature = Number(event.target.value);
    find("temperature-value").textContent = number(state.settings.temperature, 2);
  });
  find("theme").addEventListener("change", (event) => {
    applyTheme(event.target.value);
    remember("localStorage", "theme", state.theme === "auto" ? null : state.theme);
  });
  find("reset-settings").addEventListener("click", () => {
    state.settings = {};
    applyTheme("auto");
    remember("localStorage", "theme", null);
    showSettings();
    keepSettings();
  });
  find("settings").addEventListener("close", () => {
    keepSettings();
    showSettings();
  });
  find("key-form").addEventListener("submit", tryKey);
  find("cancel-key").addEventListener("click", () => find("key-dialog").close());
  askHealth().then(() => {
    if (state.server?.needs_key && state.key === "") askKey();
  });
  if (!window.matchMedia("(pointer: coarse)").matches) find("input").focus();
}
