// The page “Try it”: what the server refused unread is said where the answer would stand.
(() => {
  "use strict";
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
