// Texts on any page: `r` shows them as they were written, `d` marks in what two of them differ; code can be copied.
(() => {
  "use strict";
  const page = document.body;
  const buttons = () => document.querySelectorAll("[data-source], [data-differences]");

  function switched(name) {
    page.classList.toggle(name);
    for (const button of buttons()) {
      button.setAttribute("aria-pressed", String(page.classList.contains("source" in button.dataset ? "as-source" : "unmarked") !== ("differences" in button.dataset)));
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || event.ctrlKey || event.metaKey || event.repeat) return;
    if (event.target.matches("textarea, select, input:not([type=radio], [type=checkbox])") || event.target.isContentEditable) return;
    if (!document.querySelector(".written") || document.querySelector("dialog[open]")) return;
    if (event.key === "r") { event.preventDefault(); switched("as-source"); }
    if (event.key === "d") { event.preventDefault(); switched("unmarked"); }
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if ("source" in button.dataset) switched("as-source");
    if ("differences" in button.dataset) switched("unmarked");
    if (!button.matches(".code-block > .copy")) return;
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = "select it, and copy by hand";
    }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
})();
