// Markdown to DOM nodes, for what language models write. Builds elements and text nodes only: nothing in the
// text can become markup, and links lead to http(s) alone.

import { el } from "./dom.js";

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([\s\S]+?)\*\*|__([^_]+?)__|\*([^\s*](?:[^*]*[^\s*])?)\*|(?<![\w])_([^_]+)_(?![\w])|~~([\s\S]+?)~~|\[([^\]]*)\]\(([^()\s]*(?:\([^()\s]*\))?[^()\s]*)\)|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/;

export function inline(text) {
  const made = [];
  for (let rest = text; rest; ) {
    const match = INLINE.exec(rest);
    if (!match) { made.push(rest); break; }
    if (match.index) made.push(rest.slice(0, match.index));
    rest = rest.slice(match.index + match[0].length);
    const [whole, , code, bold, bold2, italic, italic2, struck, label, target, url] = match;
    if (code !== undefined) made.push(el("code", null, code.trim() || code));
    else if (bold ?? bold2) made.push(el("strong", null, ...inline(bold ?? bold2)));
    else if (italic ?? italic2) made.push(el("em", null, ...inline(italic ?? italic2)));
    else if (struck) made.push(el("del", null, ...inline(struck)));
    else made.push(link(target ?? url, target === undefined ? [url] : inline(label)) ?? whole);
  }
  return made;
}

function link(target, children) {
  if (!/^https?:\/\//i.test(target)) return null;
  return el("a", { href: target, rel: "noopener noreferrer nofollow", target: "_blank" }, ...children);
}

const BULLET = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const STARTS = [/^\s*(```|~~~)/, /^#{1,6}\s/, /^\s*>/, BULLET, /^\s*([-*_])(\s*\1){2,}\s*$/];

export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const made = [];
  let at = 0;
  const take = (test) => { const taken = []; while (at < lines.length && test(lines[at])) taken.push(lines[at++]); return taken; };
  while (at < lines.length) {
    const line = lines[at];
    const fence = /^(\s*)(`{3,}|~{3,})\s*([\w+#.-]*)/.exec(line);
    const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    if (!line.trim()) at++;
    else if (fence) {
      at++;
      const closes = (other) => other.trim().startsWith(fence[2]) && !other.trim().slice(fence[2].length).trim();
      const code = take((other) => !closes(other));
      at++;
      made.push(el("pre", { tabindex: 0 }, el("code", { "data-language": fence[3] || null }, code.map((l) => l.startsWith(fence[1]) ? l.slice(fence[1].length) : l).join("\n"))));
    } else if (heading) { at++; made.push(el("h4", null, ...inline(heading[2]))); }
    else if (STARTS[4].test(line)) { at++; made.push(el("hr")); }
    else if (/^\s*>/.test(line) && depth < 8) {
      made.push(el("blockquote", null, ...blocks(take((l) => /^\s*>/.test(l)).map((l) => l.replace(/^\s*>\s?/, "")), depth + 1)));
    } else if (BULLET.test(line) && depth < 8) made.push(list());
    else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("|")) made.push(table());
    else {
      const first = [lines[at++]];
      const more = take((l) => l.trim() && !STARTS.some((start) => start.test(l)));
      made.push(el("p", null, ...inline([...first, ...more].join("\n"))));
    }
  }
  return made;

  function list() {
    const [, indent, mark] = BULLET.exec(lines[at]);
    const ordered = /\d/.test(mark);
    const items = [];
    while (at < lines.length) {
      const match = BULLET.exec(lines[at]);
      if (!match || match[1].length < indent.length || match[1].length > indent.length + 1 || /\d/.test(match[2]) !== ordered) break;
      at++;
      const inner = [match[3]];
      while (at < lines.length) {
        const blank = !lines[at].trim();
        const deeper = /^\s+/.exec(blank ? lines[at + 1] ?? "" : lines[at])?.[0].length > indent.length + 1;
        if (!deeper && (blank || STARTS.some((start) => start.test(lines[at])))) break;
        inner.push(lines[at++].replace(new RegExp(`^\\s{0,${indent.length + mark.length + 1}}`), ""));
      }
      const content = blocks(inner, depth + 1);
      const simple = content[0]?.localName === "p" ? [...content[0].childNodes, ...content.slice(1)] : content;
      items.push(el("li", null, ...simple));
      if (at + 1 < lines.length && !lines[at].trim() && BULLET.test(lines[at + 1])) at++;
    }
    return ordered ? el("ol", { start: Number.parseInt(mark, 10) }, ...items) : el("ul", null, ...items);
  }

  function table() {
    const cells = (row) => row.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
    const head = cells(lines[at]);
    at += 2;
    const rows = take((l) => l.includes("|") && l.trim());
    return el("table", null,
      el("thead", null, el("tr", null, ...head.map((cell) => el("th", { scope: "col" }, ...inline(cell))))),
      el("tbody", null, ...rows.map((row) => el("tr", null, ...cells(row).slice(0, head.length).map((cell) => el("td", null, ...inline(cell)))))));
  }
}
