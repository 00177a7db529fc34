// Loads the parts of a page, each on its own, and again while somebody looks. Without it every page is there whole.
"use strict";

const SLOW_MS = 4000;
const LATER_MS = 8000;

async function load(part, { fresh = false } = {}) {
  if (part.loading) return;
  part.loading = true;
  const waiting = part.querySelector(":scope > .waiting");
  const slow = setTimeout(() => {
    if (waiting) waiting.textContent = "Azure has not answered yet; still waiting …";
  }, SLOW_MS);
  try {
    const answer = await fetch(part.dataset.part + (fresh ? "?fresh=1" : ""), { cache: "no-store" });
    const html = await answer.text();
    // what says that somebody has to log in again is a whole page: it is not put into this one
    if (answer.status === 403) throw new Error("this page is no longer logged in: open the printed address again");
    show(part, html, answer.ok);
    if (answer.status === 502 && !part.dataset.every) later(part);
  } catch (error) {
    const gone = error instanceof TypeError ? "mlops ui does not answer: does it still run?" : error.message;
    note(`! ${gone}`);
    if (waiting) waiting.textContent = gone;
  } finally {
    clearTimeout(slow);
    part.loading = false;
    part.setAttribute("aria-busy", "false");
  }
}

// Azure may answer in a moment: a part that nothing else asks for again is asked for again while somebody looks.
function later(part) {
  setTimeout(() => {
    if (!part.isConnected || part.shown) return;
    if (document.visibilityState === "visible" && !inUse(part)) load(part);
    else later(part);
  }, LATER_MS);
}

// A part that has been shown is not replaced by trouble: what was seen last stays, and a line says so.
function show(part, html, ok) {
  if (!ok && part.shown) {
    note(`! some of this is from ${part.shown.toLocaleTimeString()}: Azure does not answer`);
    return;
  }
  if (ok) {
    part.shown = new Date();
    note("");
  }
  if (part.html === html) return;
  part.html = html;
  const kept = new Map([...part.querySelectorAll("[data-part]")].map((nested) => [nested.dataset.part, nested]));
  const opened = [...part.querySelectorAll("details")].map((details) => details.open);
  part.innerHTML = html; // made by our own server, which escapes every value
  part.querySelectorAll("details").forEach((details, at) => {
    if (opened[at]) details.open = true;
  });
  part.querySelectorAll("[data-part]").forEach((nested) => {
    const before = kept.get(nested.dataset.part);
    if (before && before.shown) nested.replaceWith(before);
    else watch(nested);
  });
  part.dispatchEvent(new CustomEvent("part", { bubbles: true }));
  if (location.hash && !part.jumped) {
    part.jumped = true;
    document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  }
}

function note(text) {
  const line = document.querySelector(".live-note");
  line.textContent = text;
  line.hidden = !text;
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    load(entry.target);
  }
}, { rootMargin: "300px" });

function watch(part) {
  if ("lazy" in part.dataset) seen.observe(part);
  else load(part);
  const every = Number(part.dataset.every || 0);
  if (every) {
    setInterval(() => {
      if (document.visibilityState === "visible" && !inUse(part)) load(part);
    }, every * 1000);
  }
}

// Where somebody has the focus, or has marked text to copy, nothing is exchanged under the hand.
function inUse(part) {
  const marked = document.getSelection();
  return part.contains(document.activeElement) || (!marked.isCollapsed && part.contains(marked.anchorNode));
}

document.addEventListener("click", (event) => {
  const again = event.target.closest("[data-again]");
  const part = again?.closest("[data-part]");
  if (!part) return;
  again.disabled = true;
  again.textContent = "Asking …";
  part.html = undefined;
  load(part, { fresh: true });
});

document.querySelectorAll("[data-part]").forEach(watch);
