"use strict";

/* Keeps marked parts of a page current. Nothing else is lost meanwhile: focus, open details. */
const live = document.getElementById("live");

function poll(part) {
  let shown = null;
  const every = Number(part.dataset.everyS) * 1000;
  const tick = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(part.dataset.poll, { redirect: "error" });
        if (!answer.ok) throw new Error(String(answer.status));
        const html = await answer.text();
        if (html !== shown) {
          replace(part, html); // the first answer too: the page may be older than it
          shown = html;
        }
        live.textContent = "";
      } catch {
        live.textContent = "Connection lost: what you see is not current.";
      }
    }
    setTimeout(tick, every);
  };
  tick();
}

function replace(part, html) {
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  const open = [...part.querySelectorAll("details[open]")].map((it) => it.id);
  part.innerHTML = html;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

for (const part of document.querySelectorAll("[data-poll]")) poll(part);

/* The overlay's opacity. An image without saliency has no overlay. */
const overlays = document.querySelectorAll(".overlay");
for (const overlay of overlays) {
  const absent = () => overlay.remove();
  if (overlay.complete && overlay.naturalWidth === 0) absent();
  else overlay.addEventListener("error", absent);
}
const slider = document.getElementById("opacity");
const toggle = document.getElementById("overlay-on");
function showOverlays() {
  document.getElementById("opacity-value").textContent = `${slider.value} %`;
  for (const overlay of overlays) {
    overlay.style.opacity = toggle.checked ? slider.value / 100 : 0;
  }
}
if (slider) {
  slider.addEventListener("input", showOverlays);
  toggle.addEventListener("change", showOverlays);
  showOverlays();
}

/* Files may be dropped as well as chosen. */
const drop = document.getElementById("drop");
if (drop) {
  const input = document.getElementById("files");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") input.files = event.dataTransfer.files;
    });
  }
}
