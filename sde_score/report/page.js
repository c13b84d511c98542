// Pictures that enlarge, and dark or light as the reader likes.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (on) => document.documentElement.classList.toggle("dark", on);
  show(dark.matches);
  dark.addEventListener("change", () => show(dark.matches));
  document.getElementById("shade").onclick = () =>
    show(!document.documentElement.classList.contains("dark"));

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button?.classList.contains("large")) return;
    const dialog = document.getElementById("large");
    const [picture, name] = [dialog.querySelector("img"), dialog.querySelector("p")];
    picture.src = button.querySelector("img").src;
    picture.alt = button.querySelector("img").alt;
    name.textContent = picture.alt;
    dialog.classList.toggle("wide", picture.naturalWidth > 400);
    dialog.showModal();
  });
  document.getElementById("large").onclick = (event) => event.currentTarget.close();
})();
