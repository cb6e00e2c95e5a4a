"use strict";

/* Keeps marked parts of a page current. Nothing else is lost meanwhile: focus, open details. */
const live = document.getElementById("live");

/* HTML as the browser writes it, so that what is shown can be told from what is new. */
function written(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.innerHTML.trim();
}

function poll(part) {
  let shown = part.innerHTML.trim(); // as it came, before anything below changes it
  const every = Number(part.dataset.everyS) * 1000;
  const tick = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(part.dataset.poll, { redirect: "error" });
        if (!answer.ok) throw new Error(String(answer.status));
        const html = written(await answer.text());
        if (html !== shown) {
          replace(part, html);
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
  if (part.id === "images") showOverlays();
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

for (const part of document.querySelectorAll("[data-poll]")) poll(part);

/* The overlays' opacity, of those that are there. An image without saliency has none. */
const tools = document.getElementById("overlay-tools");
const slider = document.getElementById("opacity");
const toggle = document.getElementById("overlay-on");
function showOverlays() {
  const overlays = document.querySelectorAll(".overlay");
  for (const overlay of overlays) {
    overlay.style.opacity = toggle.checked ? slider.value / 100 : 0;
    const absent = () => overlay.remove();
    if (overlay.complete && overlay.naturalWidth === 0) absent();
    else overlay.onerror = absent;
  }
  tools.hidden = overlays.length === 0;
  document.getElementById("opacity-value").textContent = `${slider.value} %`;
}
if (tools) {
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
