// Small helpers. All text is set as text: names and answers come from elsewhere and are never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== ""));
  return element;
}

export const el = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

/** Change only what is different inside, so that focus, selection, readers and what moves are left alone. */
export function show(parent, ...children) {
  const made = parent.cloneNode(false);
  made.append(...children);
  become(parent, made);
}

function become(there, made) {
  for (const { name } of [...there.attributes]) if (!made.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of made.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  const wanted = [...made.childNodes];
  wanted.forEach((child, at) => {
    const old = there.childNodes[at];
    if (!old) there.append(child);
    else if (child.nodeType === Node.ELEMENT_NODE && old.nodeName === child.nodeName) become(old, child);
    else if (!old.isEqualNode(child)) old.replaceWith(child);
  });
  while (there.childNodes.length > wanted.length) there.lastChild.remove();
}

/** A block of text that a button copies. One handler serves them all: blocks are made anew with each state. */
export const copied = (code) => el("div", { class: "copied" }, el("pre", { tabindex: 0 }, code), el("button", { type: "button", class: "copy" }, "Copy"));

export function startCopying() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button.copy");
    if (!button) return;
    const done = await copy(button.parentElement.querySelector("pre").textContent);
    button.textContent = done ? "Copied" : "Select it by hand";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without HTTPS browsers offer the clipboard on loopback only; the old way still works there.
    const area = el("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

export function bytes(count) {
  if (count === undefined) return "";
  return count >= 2 ** 30 ? `${(count / 2 ** 30).toFixed(1)} GiB` : `${Math.round(count / 2 ** 20)} MiB`;
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** "0:15" -> [0, 15] */
export const span = (text) => text.split(":").map(Number);
export const layersOf = (text) => `layers ${text}`;
