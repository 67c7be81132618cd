// Every page: forms that outlive a sign-in, tables that scroll by keys, the tab bar, copy buttons, a name's address.
(() => {
  "use strict";

  // Signing in gives the browser a new token. A page that was open before sends that one, not its own, so that
  // what was typed there can still be saved.
  const token = () => document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1];
  document.addEventListener("htmx:configRequest", (event) => {
    if (!token()) return;
    event.detail.headers["X-CSRFToken"] = token();
    if (event.detail.parameters.has("csrfmiddlewaretoken")) event.detail.parameters.set("csrfmiddlewaretoken", token());
  });
  document.addEventListener("submit", (event) => {
    const field = event.target.elements?.csrfmiddlewaretoken;
    if (field && token()) field.value = token();
  }, true);

  // What is wider than the page can be reached by keys, and only that.
  function scrollers() {
    for (const box of document.querySelectorAll(".table-scroll, .formats table, main pre")) {
      const scrolls = box.scrollWidth > box.clientWidth;
      if (box.matches("pre")) {
        if (scrolls) box.tabIndex = 0;
        continue;
      }
      if (!scrolls) {
        box.removeAttribute("tabindex");
        continue;
      }
      box.tabIndex = 0;
      if (box.matches("table")) continue;
      const heading = box.closest("section, details, main")?.querySelector("h1, h2, h3, summary");
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", `${heading?.textContent.trim() || "Table"}, scrolls sideways`);
    }
  }
  scrollers();
  window.addEventListener("resize", scrollers);
  document.addEventListener("toggle", scrollers, true);
  document.addEventListener("htmx:afterSettle", scrollers);

  function tabInSight() {
    for (const tab of document.querySelectorAll(".project-nav [aria-current], .methods [aria-current]")) {
      const bar = tab.closest("ul");
      bar.scrollLeft = tab.offsetLeft - bar.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;
    }
  }
  tabInSight();
  document.addEventListener("htmx:afterSettle", tabInSight);

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const fields = [...document.querySelectorAll(button.dataset.copy)];
    const lines = fields.map((field) => (fields.length > 1 && field.dataset.note ? `${field.dataset.note}: ` : "") + field.value);
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(lines.join("\n"));
      button.textContent = "Copied";
    } catch {
      fields[0].select();
      button.textContent = "Select it, and copy by hand";
    }
    setTimeout(() => { button.textContent = said; }, 2000);
  });
  for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;

  // What is left open in a list's filters does not fill the address bar.
  document.addEventListener("formdata", (event) => {
    if (!event.target.matches(".filters")) return;
    for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
  });

  // One of a list: j is the next, k the one before.
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || event.ctrlKey || event.metaKey || event.repeat) return;
    if (event.target.matches("textarea, select, input:not([type=radio], [type=checkbox])") || event.target.isContentEditable) return;
    const rel = { j: "next", k: "prev" }[event.key];
    if (rel) document.querySelector(`.place a[rel=${rel}]`)?.click();
  });

  // Of a training's options those that the chosen method knows.
  const method = document.querySelector("#start select[name=method]");
  if (method) {
    const fit = () => {
      for (const control of document.querySelectorAll("#start [data-methods]")) {
        control.disabled = !control.dataset.methods.split(" ").includes(method.value);
        control.closest(".field").hidden = control.disabled;
      }
    };
    method.addEventListener("change", fit);
    window.addEventListener("pageshow", fit);
    fit();
  }

  // The address of a new project follows its name until somebody writes one.
  const address = document.querySelector("input[data-address-of]");
  const name = address && document.getElementById(address.dataset.addressOf);
  if (name) {
    const made = () => name.value.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase()
      .replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60).replace(/-+$/, "");
    let own = address.value !== "" && address.value !== made();
    address.addEventListener("input", () => { own = address.value !== ""; });
    name.addEventListener("input", () => { if (!own) address.value = made(); });
    if (!own && !address.value) address.value = made();
  }
})();
