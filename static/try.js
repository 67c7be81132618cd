// The page “Try it”: boxes come and go, and what the server refused unread is said where the answer would stand.
(() => {
  "use strict";

  // Without this script the further boxes are folded; with it they stand beside the first ones, one by one.
  const form = document.querySelector(".try-form");
  const grid = form?.querySelector("[data-boxes]");
  const add = form?.querySelector("[data-add-box]");
  if (grid && add) {
    const folded = form.querySelector(".try-more");
    const first = grid.children.length;
    grid.append(...folded.querySelectorAll(".field"));
    folded.remove();
    const boxes = [...grid.children];
    const count = () => { add.hidden = boxes.every((box) => !box.hidden); };
    for (const box of boxes.slice(first)) {
      const text = box.querySelector("textarea");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.className = "link";
      remove.textContent = "remove";
      remove.setAttribute("aria-label", `remove ${box.querySelector("label").textContent}`);
      remove.addEventListener("click", () => { text.value = ""; box.hidden = true; count(); add.focus(); });
      const head = document.createElement("div");
      head.className = "try-box-head";
      head.append(box.querySelector("label"), remove);
      box.prepend(head);
      box.hidden = !text.value;
    }
    add.addEventListener("click", () => {
      const next = boxes.find((box) => box.hidden);
      next.hidden = false;
      next.querySelector("textarea").focus();
      count();
    });
    count();
  }

  // An answer that was waited for is read out from its heading on.
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.xhr?.getResponseHeader("HX-Reswap")) document.querySelector("#result h2")?.focus({ preventScroll: true });
  });

  document.addEventListener("htmx:responseError", (event) => {
    const place = document.querySelector("main #result");
    if (!place) return;
    const words = document.createElement("p");
    words.className = "message error";
    words.setAttribute("role", "alert");
    words.textContent = event.detail.xhr.status === 413
      ? "These texts are too long together. Shorten them, or leave some out."
      : "The server refused this. Load the page again; copy your texts first.";
    place.replaceChildren(words);
  });
})();
