// The chat: each column is a conversation of its own, so that both slots can be asked the same side by side.
"use strict";

function begin(chat) {
  const form = chat.querySelector("form");
  const question = form.elements.question;
  const send = form.querySelector("[data-send]");
  const stop = form.querySelector("[data-stop]");
  const columns = [...chat.querySelectorAll("[data-column]")].map((element) => ({
    element,
    slot: element.dataset.column || null,
    mode: element.dataset.mode,
    log: element.querySelector(".log"),
    messages: [],
  }));
  let running = null;

  const mode = () => chat.querySelector("[name=mode]:checked").value;

  function choose() {
    for (const column of columns) column.element.hidden = column.mode !== mode();
  }

  function add(column, className, text) {
    const made = document.createElement("div");
    made.className = className;
    made.textContent = text;
    column.log.append(made);
    column.log.scrollTop = column.log.scrollHeight;
    return made;
  }

  function parameters() {
    const temperature = Number(form.elements.temperature.value || 0);
    const found = { max_new_tokens: Number(form.elements.max_new_tokens.value || 200), do_sample: temperature > 0 };
    if (temperature > 0) found.temperature = temperature;
    return found;
  }

  async function ask(column, text, signal) {
    column.messages.push({ role: "user", content: text });
    add(column, "message user", text);
    const shown = add(column, "message assistant pending", "");
    let answer = await once(column, shown, signal);
    let leftOut = 0;
    while (answer.too_long && column.messages.length > 1) {
      // the model's context is full: the older half of the turns is no longer sent
      const turns = Math.ceil((column.messages.length - 1) / 4);
      column.messages.splice(0, 2 * turns);
      leftOut += turns;
      answer = await once(column, shown, signal);
    }
    if (leftOut) add(column, "figures", `the model's context is full: ${leftOut === 1 ? "the oldest turn is" : `the ${leftOut} oldest turns are`} no longer sent`);
    shown.classList.remove("pending");
    if (answer.error) {
      // what was not answered is no part of the conversation: the next question begins where the last answer ended
      column.messages.pop();
      shown.classList.add("failed");
      shown.textContent = answer.error;
      add(column, "figures", figures(answer));
      return false;
    }
    shown.textContent = answer.text;
    column.messages.push({ role: "assistant", content: answer.text });
    add(column, "figures", figures(answer));
    return true;
  }

  // One request with all that a column holds.
  async function once(column, shown, signal) {
    const system = form.elements.system.value.trim();
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...column.messages];
    try {
      const response = await fetch("/ask", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ slot: column.slot, messages, parameters: parameters() }),
        signal,
      });
      if (response.status === 403) return { error: "this page is no longer logged in: open the printed address again" };
      if (!response.ok) return { error: (await response.json()).error };
      return await read(response, (piece) => {
        shown.textContent += piece;
        column.log.scrollTop = column.log.scrollHeight;
      });
    } catch (error) {
      return { error: error.name === "AbortError" ? "stopped" : "mlops ui does not answer: does it still run?" };
    }
  }

  // One JSON document per line: pieces of the answer, and the answer with its figures last.
  async function read(response, piece) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return { error: "the answer broke off" };
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const found = JSON.parse(line);
        if (found.answer) return found.answer;
        piece(found.piece);
      }
    }
  }

  function figures(answer) {
    const parts = [answer.slot];
    if (answer.latency_ms) parts.push(`${answer.latency_ms} ms`);
    if (answer.first_ms) parts.push(`first words after ${answer.first_ms} ms`);
    if (answer.tokens) parts.push(`${answer.tokens} tokens`);
    if (answer.tokens_per_s) parts.push(`${answer.tokens_per_s} tokens/s`);
    if (answer.finish_reason === "length") parts.push("cut off at the limit of tokens");
    return parts.filter(Boolean).join(" · ");
  }

  async function submit() {
    const text = question.value.trim();
    if (!text || running) return;
    running = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    question.value = "";
    const asked = columns.filter((column) => column.mode === mode());
    const answered = await Promise.all(asked.map((column) => ask(column, text, running.signal)));
    if (!answered.some(Boolean)) question.value ||= text; // to be asked again
    running = null;
    send.disabled = false;
    stop.hidden = true;
    question.focus();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stop.addEventListener("click", () => running?.abort());
  chat.querySelector("[data-clear]").addEventListener("click", () => {
    for (const column of columns) {
      column.messages.length = 0;
      column.log.replaceChildren();
    }
    question.focus();
  });
  chat.addEventListener("change", (event) => {
    if (event.target.name === "mode") choose();
  });
  choose();
  question.focus();
}

document.addEventListener("part", (event) => {
  const chat = event.target.querySelector?.("[data-chat]");
  if (chat) begin(chat);
});
