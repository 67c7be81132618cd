// The annotate page: keys, sending, the cards fetched ahead, and answers that survive a lost connection.
// The deck holds cards; the first that is not being sent is in sight. A sent card leaves the page only when the
// server's receipt is there; until then it can come back with its answers. The server stores one row per card and
// revision, so sending again is harmless. A contradiction of verdict and levels is asked about here and, for whoever
// comes without this script, by the server.
(() => {
  "use strict";
  const deck = document.getElementById("deck");
  if (!deck) return;
  const editing = "editing" in deck.dataset;
  const waiting = document.getElementById("waiting");
  const nothing = document.getElementById("nothing");
  const keys = document.getElementById("keys");
  const DRAFT = "caliper:draft:";
  const FIELDS = ["verdict", "strength", "level", "level_left", "level_right", "tags_left", "tags_right", "comment"];
  const NEEDED = { both: ["verdict", "level_left", "level_right"], levels: ["level"], pairs: ["verdict"] };
  const CONTRADICTIONS = JSON.parse(deck.dataset.contradictions);
  // Other tabs of this browser hear which cards were answered here.
  const tabs = "BroadcastChannel" in window ? new BroadcastChannel("caliper:answered") : null;
  // Cards that have their receipt. A slower answer to an earlier card may bring one of them once more.
  const settled = new Set();
  // By card: what was said on it since it came in sight. What an undo brought back counts once it is said again.
  const saidOn = new WeakMap();
  let undoLater = false;
  deck.classList.add("scripted");

  const cards = () => [...deck.querySelectorAll(".judge")];
  const isSending = (card) => "sending" in card.dataset;
  const current = () => cards().find((card) => !isSending(card));
  const formOf = (card) => card.querySelector("form.verdict-bar");
  const chosen = (form, name) => form.querySelector(`input[name="${name}"]:checked`)?.value || "";
  const comment = (form) => form.querySelector("textarea[name=comment]");
  const ticked = (form, name) => [...form.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value);
  function said(card) {
    if (!saidOn.has(card)) saidOn.set(card, new Set());
    return saidOn.get(card);
  }

  // --- Drafts: unsent answers, kept in this browser until the receipt --------------------------------------------
  function draftSave(card) {
    const form = formOf(card);
    const draft = { at: Date.now(), revision: form.elements.revision.value };
    for (const name of FIELDS) draft[name] = name === "comment" ? comment(form).value : name.startsWith("tags") ? ticked(form, name) : chosen(form, name);
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
      if (name.startsWith("tags")) {
        for (const box of form.querySelectorAll(`input[name="${name}"]`)) box.checked = (draft[name] || []).includes(box.value);
        continue;
      }
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
      formOf(card).dataset.verdict = chosen(formOf(card), "verdict");
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
    foldsTell(form);
  }

  // On a phone the folded fields tell what is in them.
  function foldsTell(form) {
    const strength = form.querySelector('input[name="strength"]:checked');
    const tags = ticked(form, "tags_left").length + ticked(form, "tags_right").length;
    const words = {
      strength: strength?.value ? strength.nextElementSibling.firstChild.textContent.trim() : "How much",
      tags: tags ? `Reasons ${tags}` : "Reasons",
      comment: comment(form).value.trim() ? "Comment ✓" : "Comment",
    };
    for (const button of form.querySelectorAll("[data-fold]")) {
      button.textContent = words[button.dataset.fold];
      button.setAttribute("aria-expanded", String(form.dataset.open === button.dataset.fold));
      if (button.dataset.fold === "strength") button.disabled = !["left", "right"].includes(chosen(form, "verdict"));
    }
  }

  function fold(form, name) {
    if (form.dataset.open === name || !name) delete form.dataset.open;
    else form.dataset.open = name;
    if (form.dataset.open === "comment") comment(form).focus();
    foldsTell(form);
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

  function complain(card, message, asks = false) {
    const error = card.querySelector(".card-error");
    // What the server asks about stands until it is answered, or something else is to be said.
    if (!message && "asked" in card.dataset && !("over" in error.dataset)) return;
    error.dataset.over = "";
    error.textContent = message;
    error.hidden = !message;
    error.classList.toggle("asks", asks);
    if (message) fold(formOf(card), "");
  }

  // A contradiction is asked about once: the form then says what it is that is kept.
  function asks(card) {
    const form = formOf(card);
    const answer = [chosen(form, "verdict"), chosen(form, "level_left"), chosen(form, "level_right")].join(":");
    const question = CONTRADICTIONS[answer];
    if (!question || form.elements.keep.value === answer) return false;
    form.elements.keep.value = answer;
    // Two new levels or one other verdict answer it as well; then nothing has to be confirmed.
    said(card).delete("level_left");
    said(card).delete("level_right");
    delete card.dataset.next;
    card.dataset.questioned = "";
    complain(card, `${question} Save (Enter) keeps it.`, true);
    hint(card);
    return true;
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
    const again = said(card).has("verdict") && chosen(form, "verdict") === value;
    if ("questioned" in card.dataset && !again) NEEDED[card.dataset.asks].forEach((name) => said(card).add(name));
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

  // Reasons: f goes to A's, B's, and away again; the digits tick what shows them.
  function tagsTurn(card, away = false) {
    const form = formOf(card);
    const sides = [...form.querySelectorAll("[data-tags]")];
    const at = sides.findIndex((side) => side.classList.contains("next"));
    sides.forEach((side, index) => side.classList.toggle("next", !away && index === at + 1));
    form.classList.toggle("tagging", !away && at + 1 < sides.length);
    if (sides.length && (form.dataset.open === "tags") !== form.classList.contains("tagging")) fold(form, "tags");
  }
  function tagKey(card, digit) {
    const boxes = formOf(card).querySelectorAll(".tags.next input");
    boxes[(digit + 9) % 10]?.click();
  }

  // By keys an answer is saved at once when all of it has been said; a correction, and what was answered elsewhere
  // meanwhile, when Enter is pressed.
  function saveIfWhole(card) {
    if (card.dataset.asks === "pairs" || editing || "asked" in card.dataset || lacks(card)) return;
    if (NEEDED[card.dataset.asks].every((name) => said(card).has(name))) save(card);
  }

  function save(card) {
    card.querySelector("button.save").click();
  }

  document.addEventListener("submit", (event) => {
    const card = event.target.closest?.(".judge");
    if (!card || !event.target.matches("form.verdict-bar")) return;
    const missing = event.submitter?.name === "skip" ? "" : lacks(card);
    const waits = missing || isSending(card) || (event.submitter?.name !== "skip" && asks(card));
    if (missing || !waits) complain(card, missing);
    if (waits) {
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
    const name = event.target.name;
    if (name === "verdict" && form.dataset.verdict !== event.target.value) {
      // How much belongs to the verdict that it was said of.
      const none = form.querySelector('input[name="strength"][value=""]');
      if (none) none.checked = true;
    }
    form.dataset.verdict = chosen(form, "verdict");
    if (name === "strength" && form.dataset.open === "strength") fold(form, "");
    if (NEEDED[card.dataset.asks].includes(name)) {
      said(card).add(name);
      delete card.dataset.questioned;
      form.elements.keep.value = "";
      complain(card, "");
    }
    draftSave(card);
    hint(card);
  });
  deck.addEventListener("click", (event) => {
    const button = event.target.closest("[data-fold]");
    if (button) fold(button.closest("form"), button.dataset.fold);
    if (event.target.closest("[data-leave]")) draftForget(event.target.closest(".judge").dataset.key);
  });
  deck.addEventListener("input", (event) => {
    const card = event.target.closest(".judge");
    if (!card || event.target.name !== "comment") return;
    draftSave(card);
    foldsTell(formOf(card));
  });

  // --- Sending -----------------------------------------------------------------------------------------------------
  const cardOf = (event) => event.detail.elt.matches?.("form.verdict-bar") ? event.detail.elt.closest(".judge") : null;

  // Several answers may be on their way, and the one that was written first may come last. How far one is, what an undo
  // takes back and why there is no card are then told by the later one; its receipt and its cards count all the same.
  const answered = (html) => Number(/data-answered="(\d+)"/.exec(html)?.[1] ?? -1);
  let older = false;
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    if (older && ["undo-place", "progress", "nothing"].includes(event.detail.target.id)) event.detail.shouldSwap = false;
  });

  const comesBack = (xhr) => xhr.status === 422 || xhr.status === 409;

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
    // A refused answer comes back as its card with what is wrong, a doubtful one with what to look at again.
    if (comesBack(event.detail.xhr)) { event.detail.shouldSwap = true; event.detail.isError = false; }
    else if (!event.detail.xhr.getResponseHeader("Caliper-Receipt") && !event.detail.requestConfig.elt.matches(".judge")) event.detail.shouldSwap = false;
    older = Boolean(cardOf(event)) && answered(event.detail.xhr.responseText) < answered(document.getElementById("progress")?.innerHTML);
    // What was taken back comes again on purpose.
    if (event.detail.requestConfig.elt.id === "undo") settled.clear();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { requestConfig, xhr } = event.detail;
    const receipt = event.detail.successful && xhr.getResponseHeader("Caliper-Receipt");
    const card = cardOf(event);
    if (card) {
      if (receipt) {
        draftForget(card.dataset.key);
        settled.add(card.dataset.key);
        card.remove();
        show({ focus: true });
        tabs?.postMessage(card.dataset.key);
      } else if (!comesBack(xhr)) {
        comeBack(card, xhr);
      }
      if (undoLater && !cards().some(isSending)) { undoLater = false; undo(); }
    } else if (requestConfig.elt.id === "undo") {
      // Its answer has replaced the button that asked: nothing else tells that the cards are there.
      if (receipt) { show({ focus: true }); clocks(); return; }
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

  // A card that was answered in another tab: behind the present one it goes; in sight and blank it is shown answered.
  // What somebody has begun to say here stays, and the server asks before it replaces anything.
  tabs?.addEventListener("message", ({ data: key }) => {
    const card = editing ? null : cards().find((one) => one.dataset.key === key && !isSending(one));
    if (!card || said(card).size || comment(formOf(card)).value.trim()) return;
    draftForget(key);
    if (card !== current()) card.remove();
    else htmx.ajax("GET", formOf(card).action, { target: card, swap: "outerHTML", source: card });
  });
  // A page that the browser kept whole, from before what was judged since.
  window.addEventListener("pageshow", (event) => { if (event.persisted) window.location.reload(); });

  window.addEventListener("beforeunload", (event) => { if (cards().some(isSending)) event.preventDefault(); });

  // --- Keys --------------------------------------------------------------------------------------------------------
  const VERDICTS = { a: "left", b: "right", t: "tie", x: "both_bad" };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || event.repeat) return;
    const card = current();
    const target = event.target;
    const withControl = event.ctrlKey || event.metaKey;
    if (target.matches("textarea, select, input:not([type=radio], [type=checkbox])") || target.isContentEditable) {
      if (event.key === "Enter" && withControl && card?.contains(target)) { event.preventDefault(); save(card); }
      if (event.key === "Escape") { target.blur(); if (card) fold(formOf(card), ""); }
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
    } else if (key === "f" || (key === "Escape" && formOf(card).classList.contains("tagging"))) {
      event.preventDefault();
      tagsTurn(card, key !== "f");
    } else if (/^[0-9]$/.test(key) && formOf(card).classList.contains("tagging")) {
      event.preventDefault();
      tagKey(card, Number(key));
    } else if (key in VERDICTS && card.dataset.asks !== "levels") {
      event.preventDefault();
      tagsTurn(card, true);
      verdictKey(card, VERDICTS[key]);
    } else if (key === "1" || key === "2" || key === "3") {
      event.preventDefault();
      digitKey(card, Number(key));
    } else if (key === "s") {
      event.preventDefault();
      card.querySelector("button.skip").click();
    } else if (key === "c") {
      event.preventDefault();
      if (formOf(card).dataset.open !== "comment") fold(formOf(card), "comment");
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
