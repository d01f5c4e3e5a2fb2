"use strict";
// The sample browser. The data stand in the page as JSON; text is always set as text, never as markup.
(() => {
  const tasks = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const PAGE = 24;
  let page = 0;
  const make = (tag, text, name) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (name) e.className = name;
    return e;
  };
  for (const [i, t] of tasks.entries()) {
    const o = make("option", t.title);
    o.value = String(i);
    $("task").append(o);
  }
  const chosen = () => {
    const t = tasks[Number($("task").value)];
    if (!t) return [[], null];
    const words = $("search").value.toLowerCase();
    const kind = $("filter").value;
    const fits = (s) => {
      const good = s.s.map((x) => x >= 0.5);
      if (kind === "differ" && good.every((g) => g === good[0])) return false;
      if (kind === "wrong" && good.some((g) => g)) return false;
      if (kind === "right" && good.some((g) => !g)) return false;
      return !words || (s.q + " " + s.t + " " + s.p.join(" ") + " " + s.id).toLowerCase().includes(words);
    };
    return [t.samples.filter(fits), t];
  };
  const show = () => {
    const [found, t] = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    $("count").textContent = `${found.length} of ${t ? t.samples.length : 0} samples, page ${page + 1} of ${pages}`;
    $("before").disabled = page === 0;
    $("after").disabled = page >= pages - 1;
    const list = $("samples");
    list.replaceChildren();
    for (const s of found.slice(page * PAGE, (page + 1) * PAGE)) {
      const li = make("li");
      const image = t.images[s.i];
      if (image) {
        const img = make("img");
        img.src = image;
        img.alt = `image ${s.i}`;
        li.append(img);
      }
      li.append(make("strong", s.q || s.id));
      const dl = make("dl");
      if (s.t) dl.append(make("dt", "reference"), make("dd", s.t));
      t.backbones.forEach((b, k) => {
        const good = s.s[k] >= 0.5;
        // A score without an answer (IoU of a image) is neither right nor wrong.
        if (s.p[k] === "") dl.append(make("dt", b), make("dd", s.s[k].toFixed(2)));
        else dl.append(make("dt", b), make("dd", `${good ? "✓" : "✗"} ${s.p[k]}`, good ? "right" : "wrong"));
      });
      li.append(dl);
      list.append(li);
    }
  };
  for (const id of ["task", "filter", "search"]) $(id).addEventListener("input", () => { page = 0; show(); });
  $("before").addEventListener("click", () => { page -= 1; show(); });
  $("after").addEventListener("click", () => { page += 1; show(); });
  show();
  // A number's link leads to a folded protocol, which opens; also where the link is followed again after it was closed.
  const reveal = () => {
    const at = $(decodeURIComponent(location.hash.slice(1)));
    if (!at || at.tagName !== "DETAILS") return;
    at.open = true;
    at.querySelector("summary").focus();
    at.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  document.addEventListener("click", (e) => { if (e.target.closest('a[href^="#r-"]')) setTimeout(reveal); });
  reveal();
  // On paper nothing can be opened: metrics and curves are, and closed again after; of the protocols only those a reader opened.
  const folded = () => document.querySelectorAll("main > details:not([open])");
  let opened = [];
  window.addEventListener("beforeprint", () => {
    const last = document.getElementById("protocols");
    opened = [...folded()].filter((d) => last.compareDocumentPosition(d) & Node.DOCUMENT_POSITION_PRECEDING);
    for (const d of opened) d.open = true;
  });
  window.addEventListener("afterprint", () => { for (const d of opened) d.open = false; });
})();
