// The export form shows the choices that the chosen format has, and says why a file type is missing.
(() => {
  "use strict";
  const form = document.querySelector(".export-form");
  if (!form) return;
  const format = form.elements.format, type = form.elements.file_type;
  const note = document.getElementById("export-note");

  function show() {
    const chosen = form.querySelector(`[data-format="${format.value}"]`);
    if (!chosen) return;
    const types = chosen.dataset.types.split(" ");
    for (const option of type.options) option.disabled = !types.includes(option.value);
    if (type.selectedOptions[0].disabled) type.value = types[0];
    const wanted = {
      votes: "votes" in chosen.dataset,
      versions: "versions" in chosen.dataset,
      superseded: "superseded" in chosen.dataset,
      divides: "divides" in chosen.dataset,
      csv: type.value === "csv",
    };
    for (const part of form.querySelectorAll("[data-for]")) part.hidden = !wanted[part.dataset.for];
    note.replaceChildren(...[...chosen.querySelector("dd").childNodes].map((node) => node.cloneNode(true)));
    note.hidden = false;
  }

  form.addEventListener("change", show);
  show();
})();
