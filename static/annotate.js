// The annotate page: keys, sending, the card fetched ahead, and answers that survive a lost connection.
// The deck holds cards; the first that is not being sent is in sight. A sent card leaves the page only when the
// server's receipt is there; until then it can come back with its answers. The server stores one row per card and
// revision, so sending again is harmless.
(() => {
  "use strict";
  const deck = document.getElementById("deck");
  if (!deck) return;
  const editing = "editing" in deck.dataset;
  const waiting = document.getElementById("waiting");
  const nothing = document.getElementById("nothing");
  const keys = document.getElementById("keys");
  const DRAFT = "caliper:draft:";
  const FIELDS = ["verdict", "strength", "level", "level_left", "level_right", "comment"];
  // Cards that have their receipt. A slower answer to an earlier card may bring one of them once more.
  const settled = new Set();
  let undoLater = false;

  const cards = () => [...deck.querySelectorAll(".judge")];
  const isSending = (card) => "sending" in card.dataset;
  const current = () => cards().find((card) => !isSending(card));
  const formOf = (card) => card.querySelector("form.verdict-bar");
  const chosen = (form, name) => form.querySelector(`input[name="${name}"]:checked`)?.value || "";
  const comment = (form) => form.querySelector("textarea[name=comment]");

  // --- Drafts: unsent answers, kept in this browser until the receipt --------------------------------------------
  function draftSave(card) {
    const form = formOf(card);
    const draft = { at: Date.now(), revision: form.elements.revision.value };
    for (const name of FIELDS) draft[name] = name === "comment" ? comment(form).value : chosen(form, name);
    try { localStorage.setItem(DRAFT + card.dataset.key, JSON.stringify(draft)); } catch { /* private window or full */ }
  }
  function draftForget(key) {
    try { localStorage.removeItem(DRAFT + key); } catch { /* as above */ }
  }
  function draftRestore(card) {
    let draft = null;
    try { draft = JSON.parse(localStorage.getItem(DRAFT + card.dataset.key)); } catch { return; }
    const form = formOf(card);
    if (!draft || draft.revision !== form.elements.revision.value) return;
    for (const name of FIELDS) {
      if (name === "comment") { comment(form).value = draft.comment || ""; continue; }
      for (const radio of form.querySelectorAll(`input[name="${name}"]`)) radio.checked = radio.value === (draft[name] || "");
    }
  }
  function draftsTidy() {
    try {
      for (const name of Object.keys(localStorage)) {
        if (!name.startsWith(DRAFT)) continue;
        const at = JSON.parse(localStorage.getItem(name) || "{}").at || 0;
        if (Date.now() - at > 7 * 24 * 3600 * 1000) localStorage.removeItem(name);
      }
    } catch { /* nothing to tidy */ }
  }

  // --- What is in sight --------------------------------------------------------------------------------------------
  function show({ focus = false } = {}) {
    const seen = new Set();
    for (const card of cards()) {
      if (seen.has(card.dataset.key) || settled.has(card.dataset.key)) card.remove();
      seen.add(card.dataset.key);
    }
    const card = current();
    for (const other of cards()) other.hidden = other !== card;
    waiting.hidden = Boolean(card) || !cards().some(isSending);
    nothing.hidden = Boolean(card) || cards().some(isSending);
    if (!card) {
      setTimeout(lookAgain, 500);
      return;
    }
    if (!("shown" in card.dataset)) {
      card.dataset.shown = "";
      const shownAt = formOf(card).elements.shown_at;
      if (!shownAt.value) shownAt.value = new Date().toISOString();
      draftRestore(card);
      if (focus) window.scrollTo({ top: 0 });
    }
    if (focus) card.focus({ preventScroll: true });
    hint(card);
  }

  // Two receipts may arrive in the other order than they were written; then neither card nor reason is here.
  function lookAgain() {
    if (!editing && cards().length === 0 && !nothing.textContent.trim()) window.location.reload();
  }

  // Which level the next digit sets, and whether the card is ready: told by classes.
  function hint(card) {
    const form = formOf(card);
    const next = nextLevel(card);
    for (const levels of form.querySelectorAll("[data-levels]")) {
      levels.classList.toggle("next", card.dataset.asks === "both" && Boolean(chosen(form, "verdict")) && levels.dataset.levels === next);
    }
    form.classList.toggle("ready", lacks(card) === "");
  }

  function nextLevel(card) {
    const form = formOf(card);
    if (card.dataset.next) return card.dataset.next;
    if (!chosen(form, "level_left")) return "left";
    if (!chosen(form, "level_right")) return "right";
    return "";
  }

  // What a card still lacks, as a sentence; "" when it can be saved.
  function lacks(card) {
    const form = formOf(card);
    if (card.dataset.asks === "levels") return chosen(form, "level") ? "" : "Choose bad, normal or good (1, 2, 3), or skip.";
    if (!chosen(form, "verdict")) return "Choose A, B, tie or both bad (a, b, t, x), or skip.";
    if (card.dataset.asks === "pairs") return "";
    if (!chosen(form, "level_left")) return "Now the level of A: bad, normal or good (1, 2, 3).";
    if (!chosen(form, "level_right")) return "Now the level of B: bad, normal or good (1, 2, 3).";
    return "";
  }

  function complain(card, message) {
    const error = card.querySelector(".card-error");
    error.textContent = message;
    error.hidden = !message;
  }

  function clocks() {
    for (const time of document.querySelectorAll("time[data-clock]")) {
      time.textContent = new Date(time.dateTime).toLocaleTimeString("en-GB");
    }
  }

  // --- Answering ---------------------------------------------------------------------------------------------------
  function choose(form, name, value) {
    const radio = form.querySelector(`input[name="${name}"][value="${value}"]`);
    if (!radio) return;
    radio.checked = true;
    radio.dispatchEvent(new Event("change", { bubbles: true }));
  }

  function verdictKey(card, value) {
    const form = formOf(card);
    const again = chosen(form, "verdict") === value;
    choose(form, "verdict", value);
    // The same key again: not said, slightly, clearly, much, not said ...
    if (again && (value === "left" || value === "right")) {
      const strength = Number(chosen(form, "strength") || 0);
      choose(form, "strength", strength === 3 ? "" : String(strength + 1));
      return;
    }
    saveIfWhole(card);
  }

  function digitKey(card, digit) {
    const form = formOf(card);
    const level = ["bad", "normal", "good"][digit - 1];
    if (card.dataset.asks === "pairs") {
      if (["left", "right"].includes(chosen(form, "verdict"))) choose(form, "strength", String(digit));
      else complain(card, "First the verdict: A or B (a, b); then by how much.");
      return;
    }
    if (card.dataset.asks === "levels") {
      choose(form, "level", level);
    } else {
      const side = nextLevel(card) || "left";
      choose(form, `level_${side}`, level);
      card.dataset.next = side === "left" ? "right" : "left";
      hint(card);
    }
    saveIfWhole(card);
  }

  // By keys a whole answer is saved at once, unless there is a comment or it is a correction: then Enter saves.
  function saveIfWhole(card) {
    const form = formOf(card);
    if (card.dataset.asks === "pairs" || "answered" in card.dataset || comment(form).value.trim()) return;
    if (!lacks(card)) save(card);
  }

  function save(card) {
    card.querySelector("button.save").click();
  }

  document.addEventListener("submit", (event) => {
    const card = event.target.closest?.(".judge");
    if (!card || !event.target.matches("form.verdict-bar")) return;
    const missing = event.submitter?.name === "skip" ? "" : lacks(card);
    complain(card, missing);
    if (missing || isSending(card)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    } else if (editing) {
      draftForget(card.dataset.key);
    }
  }, true);

  deck.addEventListener("change", (event) => {
    const card = event.target.closest(".judge");
    if (!card) return;
    const form = formOf(card);
    if (event.target.name === "verdict" && !["left", "right"].includes(event.target.value)) {
      const none = form.querySelector('input[name="strength"][value=""]');
      if (none) none.checked = true;
    }
    complain(card, "");
    draftSave(card);
    hint(card);
  });
  deck.addEventListener("input", (event) => {
    const card = event.target.closest(".judge");
    if (card && event.target.name === "comment") draftSave(card);
  });

  // --- Sending -----------------------------------------------------------------------------------------------------
  const cardOf = (event) => event.detail.elt.matches?.("form.verdict-bar") ? event.detail.elt.closest(".judge") : null;

  document.addEventListener("htmx:configRequest", (event) => {
    const card = cardOf(event);
    if (!card) return;
    const others = cards().filter((other) => other !== card);
    event.detail.parameters.set("holding", others.filter((other) => !isSending(other)).map((other) => other.dataset.key).join(","));
    event.detail.parameters.set("sending", others.filter(isSending).map((other) => other.dataset.key).join(","));
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    const card = cardOf(event);
    if (!card) return;
    draftSave(card);
    card.dataset.sending = "";
    show({ focus: true });
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    // A refused answer comes back as its card with what is wrong.
    if (event.detail.xhr.status === 422) { event.detail.shouldSwap = true; event.detail.isError = false; }
    else if (!event.detail.xhr.getResponseHeader("Caliper-Receipt")) event.detail.shouldSwap = false;
    // What was taken back comes again on purpose.
    if (event.detail.requestConfig.elt.id === "undo") settled.clear();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { elt, xhr } = event.detail;
    const receipt = event.detail.successful && xhr.getResponseHeader("Caliper-Receipt");
    const card = cardOf(event);
    if (card) {
      if (receipt) {
        draftForget(card.dataset.key);
        settled.add(card.dataset.key);
        card.remove();
        show({ focus: true });
      } else if (xhr.status !== 422) {
        comeBack(card, xhr);
      }
      if (undoLater && !cards().some(isSending)) { undoLater = false; undo(); }
    } else if (elt.id === "undo" && !receipt) {
      document.getElementById("receipt-text").textContent = `Not taken back: ${reason(xhr)}`;
    }
    clocks();
  });
  document.addEventListener("htmx:afterSettle", () => { show(); clocks(); });

  // Why something was not stored, and what helps. pages.js sends the token of a new sign-in, so Save works after one.
  function reason(xhr) {
    if (xhr.status === 0) return "the server could not be reached. Save tries again.";
    if (xhr.status === 423) return xhr.responseText;
    if (xhr.status === 403) return "the server refused it. Reload the page: your answer is kept in this browser.";
    if (xhr.status === 404) return "this card is not yours (are you signed in as somebody else?). Sign in as before, or reload the page.";
    if (xhr.status >= 500) return "something broke on the server. Save tries again.";
    return "you are signed out. Sign in again in another tab; then Save here works.";
  }

  function comeBack(card, xhr) {
    delete card.dataset.sending;
    deck.prepend(card);
    complain(card, `Not saved yet: ${reason(xhr)} Your answer is still here.`);
    show({ focus: true });
  }

  function undo() {
    if (cards().some(isSending)) { undoLater = true; return; }
    document.getElementById("undo")?.requestSubmit();
  }

  window.addEventListener("beforeunload", (event) => { if (cards().some(isSending)) event.preventDefault(); });

  // --- Keys --------------------------------------------------------------------------------------------------------
  const VERDICTS = { a: "left", b: "right", t: "tie", x: "both_bad" };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || event.repeat) return;
    const card = current();
    const target = event.target;
    const withControl = event.ctrlKey || event.metaKey;
    if (target.matches("textarea, select, input:not([type=radio])") || target.isContentEditable) {
      if (event.key === "Enter" && withControl && card?.contains(target)) { event.preventDefault(); save(card); }
      if (event.key === "Escape") target.blur();
      return;
    }
    if (withControl || keys.open) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "?") { event.preventDefault(); keys.showModal(); return; }
    if (key === "u" && !editing) { event.preventDefault(); undo(); return; }
    if (!card) return;
    if (key === "Enter") {
      // Buttons, links and radios do the right thing by themselves.
      if (target.matches("button, a, summary, input")) return;
      event.preventDefault();
      save(card);
    } else if (key in VERDICTS && card.dataset.asks !== "levels") {
      event.preventDefault();
      verdictKey(card, VERDICTS[key]);
    } else if (key === "1" || key === "2" || key === "3") {
      event.preventDefault();
      digitKey(card, Number(key));
    } else if (key === "s") {
      event.preventDefault();
      card.querySelector("button.skip").click();
    } else if (key === "c") {
      event.preventDefault();
      comment(formOf(card)).focus();
    }
  });

  const help = document.querySelector("[data-help]");
  help.hidden = false;
  help.addEventListener("click", () => keys.showModal());

  draftsTidy();
  show();
  clocks();
})();
