// The card: `j` and `k` go to the prompt and the answers, `o` opens and closes what is folded. Enter goes on saving after
// a click on a fold.
(() => {
  "use strict";
  const deck = document.getElementById("deck");
  if (!deck) return;
  const card = () => deck.querySelector(".judge:not([hidden])");
  const stops = () => [...card().querySelectorAll("[data-stop]")];
  // What covers the top of the page: nothing but a little room.
  const TOP = 60;

  // The stop that has the focus, else the last one that begins above the page's top.
  function here(all) {
    const focused = all.findIndex((stop) => stop.contains(document.activeElement));
    if (focused >= 0) return focused;
    return all.reduce((found, stop, place) => (stop.getBoundingClientRect().top <= TOP ? place : found), -1);
  }

  function go(step) {
    const all = stops();
    const stop = all[Math.max(0, Math.min(all.length - 1, here(all) + step))];
    stop.focus({ preventScroll: true });
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    stop.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
  }

  // All folds of the card are opened, or closed if they are open.
  function folds() {
    const all = [...card().querySelectorAll("details")];
    const open = all.some((fold) => !fold.open);
    for (const fold of all) fold.open = open;
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || event.ctrlKey || event.metaKey || event.repeat) return;
    if (event.target.matches("textarea, select, input:not([type=radio])") || event.target.isContentEditable) return;
    if (!card() || document.querySelector("dialog[open]")) return;
    const act = { j: () => go(1), k: () => go(-1), o: folds }[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // A click on a fold, on "copy" or on a view leaves the focus where it is: Enter saves, as before. Keys reach them by Tab.
  document.addEventListener("mousedown", (event) => {
    if (event.target.closest("summary, .copy, [data-source], [data-differences]")) event.preventDefault();
  });

  // Who tabs into what is folded sees it.
  deck.addEventListener("focusin", (event) => {
    const fold = event.target.closest(".turn-body")?.parentElement.querySelector(":scope > .unfold");
    if (fold && event.target !== fold) fold.open = true;
  });
})();
