"use strict";
// Tables, sample browser, links to protocols. The data stand in the page as JSON; text is always set as text, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (name) e.className = name;
    return e;
  };

  // Wide tables: a column's head sorts the rows, a row's head sorts the columns of backbones; two fields choose rows and columns.
  const FIRST = 2; // columns before the backbones: task and metric
  const tables = [...document.querySelectorAll("table.wide")];
  const body = (t) => [...t.tBodies[0].rows];
  const order = (t) => {
    if (!t.first) t.first = { rows: body(t), heads: [...t.tHead.rows[0].cells] };
    return t.first;
  };
  const value = (cell) => (cell && cell.dataset.v !== undefined ? Number(cell.dataset.v) : -Infinity);
  const clear = (t) => { for (const th of t.querySelectorAll("th[aria-sort]")) th.removeAttribute("aria-sort"); };
  const sortRows = (t, th) => {
    const down = th.nextDown ?? th.cellIndex >= FIRST; // numbers begin with the largest, names with a
    th.nextDown = !down;
    const k = th.cellIndex;
    const rows = body(t).sort((a, b) => k < FIRST
      ? a.cells[k].textContent.localeCompare(b.cells[k].textContent) * (down ? -1 : 1)
      : (value(b.cells[k]) - value(a.cells[k]) || 0) * (down ? 1 : -1));
    t.tBodies[0].append(...rows);
    clear(t);
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  const moveColumns = (t, sequence) => {
    for (const row of [t.tHead.rows[0], ...body(t)]) row.append(...sequence.map((k) => row.cells[k]));
  };
  const sortColumns = (t, th) => {
    const down = th.nextDown ?? true;
    th.nextDown = !down;
    const cells = [...th.parentElement.cells];
    const sequence = cells.map((_, k) => k).slice(FIRST).sort((a, b) => (value(cells[b]) - value(cells[a]) || 0) * (down ? 1 : -1));
    moveColumns(t, sequence);
    clear(t);
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  // Of many backbones and tasks a page at a time: the fields choose among all, the buttons turn.
  const WIDE = 8, PAGED = 6, LONG = 40; // eight stand side by side; of more, six with their intervals
  const turned = { columns: 0, rows: 0 };
  const metrics = [...document.querySelectorAll("table.metrics")];
  const turn = (kind, names, size) => { // indices of a page's names, of those that were chosen
    const pages = Math.max(1, Math.ceil(names.length / size));
    turned[kind] = Math.max(0, Math.min(turned[kind], pages - 1));
    $(`${kind}before`).disabled = turned[kind] === 0;
    $(`${kind}after`).disabled = turned[kind] >= pages - 1;
    return new Set(names.slice(turned[kind] * size, (turned[kind] + 1) * size));
  };
  const label = (cell) => cell.textContent.trim();
  const choose = () => {
    const words = $("rows").value.toLowerCase(), names = $("columns").value.toLowerCase();
    const heads = [...tables[0].tHead.rows[0].cells].slice(FIRST).map(label);
    const chosen = heads.filter((n) => n.toLowerCase().includes(names));
    const size = chosen.length > WIDE ? PAGED : WIDE;
    const shown = turn("columns", chosen, size);
    const fits = (row) => (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase().includes(words);
    const titles = body(tables[0]).filter(fits).map((row) => label(row.cells[0]));
    const seen = turn("rows", titles, LONG), tasks = new Set(body(tables[0]).map((row) => label(row.cells[0])));
    for (const t of tables) {
      // What is no task of its own (averages) stands on every page.
      for (const row of body(t)) row.hidden = tasks.has(label(row.cells[0])) && !(fits(row) && seen.has(label(row.cells[0])));
      const hide = [...t.tHead.rows[0].cells].map((c, k) => k >= FIRST && !shown.has(label(c)));
      for (const row of [t.tHead.rows[0], ...body(t)]) for (const [k, c] of [...row.cells].entries()) c.hidden = hide[k];
    }
    for (const t of metrics) {
      const hide = [...t.tHead.rows[0].cells].map((c, k) => k > 0 && !shown.has(label(c)));
      for (const row of [t.tHead.rows[0], ...body(t)]) for (const [k, c] of [...row.cells].entries()) c.hidden = hide[k];
    }
    $("columnpages").hidden = heads.length <= WIDE;
    $("rowpages").hidden = body(tables[0]).length <= LONG;
    const of = chosen.length > WIDE ? `, backbones ${turned.columns * size + 1} to ${turned.columns * size + shown.size} of ${chosen.length}` : "";
    $("shown").textContent = `${seen.size} of ${body(tables[0]).length} tasks${of}`;
  };
  for (const kind of ["columns", "rows"]) {
    $(`${kind}before`).addEventListener("click", () => { turned[kind] -= 1; choose(); });
    $(`${kind}after`).addEventListener("click", () => { turned[kind] += 1; choose(); });
  }
  for (const t of tables) {
    order(t);
    for (const th of t.querySelectorAll("th")) {
      const b = make("button", th.textContent);
      b.type = "button";
      th.replaceChildren(b);
      b.addEventListener("click", () => (th.scope === "row" ? sortColumns : sortRows)(t, th));
    }
  }
  if (tables.length) {
    $("choose").hidden = $("sorting").hidden = false;
    for (const id of ["rows", "columns"]) $(id).addEventListener("input", () => { turned[id] = 0; choose(); });
    $("reset").addEventListener("click", () => {
      $("rows").value = $("columns").value = "";
      turned.rows = turned.columns = 0;
      for (const t of tables) {
        const heads = [...t.tHead.rows[0].cells];
        moveColumns(t, order(t).heads.slice(FIRST).map((h) => heads.indexOf(h)));
        t.tBodies[0].append(...order(t).rows);
        clear(t);
        for (const th of t.querySelectorAll("th")) delete th.nextDown;
      }
      choose();
    });
    choose();
  }

  // Samples, grouped by image.
  const tasks = JSON.parse($("data").textContent);
  const RIGHT = Number($("meaning").dataset.right);
  const PAGE = 12; // images
  const ANSWERS = 10; // backbones of a question
  let page = 0;
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
      const good = s.s.map((x) => x >= RIGHT);
      if (kind === "differ" && good.every((g) => g === good[0])) return false;
      if (kind === "wrong" && good.some((g) => g)) return false;
      if (kind === "right" && good.some((g) => !g)) return false;
      return !words || (s.q + " " + s.t + " " + s.p.join(" ") + " " + s.id).toLowerCase().includes(words);
    };
    return [t.samples.filter(fits), t];
  };
  const question = (t, s, image) => {
    const part = make("div", undefined, "question");
    if (s.q || s.id !== image) part.append(make("strong", s.q || s.id));
    const dl = make("dl");
    if (s.t) dl.append(make("dt", "reference"), make("dd", s.t));
    const asked = t.backbones.map((b, k) => [b, k]).filter(([b]) => b.toLowerCase().includes($("answerers").value.toLowerCase()));
    asked.slice(0, ANSWERS).forEach(([b, k]) => {
      const good = s.s[k] >= RIGHT;
      // A score without an answer (IoU of an image) is neither right nor wrong.
      const dd = s.p[k] === "" ? make("dd", `${t.metric} ${s.s[k].toFixed(2)}`) : make("dd", `${good ? "✓" : "✗"} ${s.p[k]}`, good ? "right" : "wrong");
      if (t.files[k]) {
        const a = make("a", `line ${s.l[k]}`);
        a.href = t.files[k];
        a.title = `line ${s.l[k]} of ${t.files[k]}`;
        dd.append(" ", a);
      }
      dl.append(make("dt", b), dd);
    });
    part.append(dl);
    if (asked.length > ANSWERS) part.append(make("p", `and ${asked.length - ANSWERS} more backbones; choose them above`, "soft"));
    return part;
  };
  const show = () => {
    const [found, t] = chosen();
    const images = [...new Set(found.map((s) => s.i))];
    const pages = Math.max(1, Math.ceil(images.length / PAGE));
    page = Math.min(page, pages - 1);
    $("count").textContent = `${found.length} of ${t ? t.samples.length : 0} samples on ${images.length} images, page ${page + 1} of ${pages}`;
    const seeds = t ? [...new Set(t.seeds)].join(", ") : "";
    $("meaning").textContent = t ? `A sample counts as right if its ${t.metric} is at least ${RIGHT} (as a fraction). Seed ${seeds}.` : "";
    $("before").disabled = page === 0;
    $("after").disabled = page >= pages - 1;
    $("whose").hidden = !t || t.backbones.length <= ANSWERS;
    const list = $("samples");
    list.replaceChildren();
    for (const name of images.slice(page * PAGE, (page + 1) * PAGE)) {
      const li = make("li");
      if (t.images[name]) {
        const img = make("img");
        img.src = t.images[name];
        img.alt = `image ${name}`;
        li.append(img);
      }
      li.append(make("h3", name), ...found.filter((s) => s.i === name).map((s) => question(t, s, name)));
      list.append(li);
    }
  };
  for (const id of ["task", "filter", "search", "answerers"]) $(id).addEventListener("input", () => { page = 0; show(); });
  $("before").addEventListener("click", () => { page -= 1; show(); });
  $("after").addEventListener("click", () => { page += 1; show(); });
  show();

  // Panels of many records a page at a time.
  const PANELS = 40;
  const panels = [...document.querySelectorAll("details.panel")];
  let leaf = 0;
  const turnPanels = () => {
    const words = $("recordsearch").value.toLowerCase();
    const chosen = panels.filter((d) => d.querySelector("summary").textContent.toLowerCase().includes(words));
    const pages = Math.max(1, Math.ceil(chosen.length / PANELS));
    leaf = Math.max(0, Math.min(leaf, pages - 1));
    const shown = new Set(chosen.slice(leaf * PANELS, (leaf + 1) * PANELS));
    for (const d of panels) d.hidden = !shown.has(d);
    for (const s of document.querySelectorAll("section.task")) s.hidden = ![...s.querySelectorAll("details.panel")].some((d) => !d.hidden);
    $("panelsbefore").disabled = leaf === 0;
    $("panelsafter").disabled = leaf >= pages - 1;
    $("panelcount").textContent = `${chosen.length} of ${panels.length} records, page ${leaf + 1} of ${pages}`;
  };
  if (panels.length > PANELS) {
    $("panels").hidden = false;
    $("recordsearch").addEventListener("input", () => { leaf = 0; turnPanels(); });
    $("panelsbefore").addEventListener("click", () => { leaf -= 1; turnPanels(); });
    $("panelsafter").addEventListener("click", () => { leaf += 1; turnPanels(); });
    turnPanels();
  }

  // A number's link leads to a folded panel, which opens with its task's protocol; also where the link is followed again after it was closed.
  const reveal = () => {
    const at = $(decodeURIComponent(location.hash.slice(1)));
    if (!at || at.tagName !== "DETAILS") return;
    at.open = true;
    at.hidden = at.closest(".task").hidden = false;
    const protocol = at.closest(".task")?.querySelector(".protocol");
    if (protocol) { // stands below the panel that was asked for
      at.after(protocol);
      protocol.open = true;
    }
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
    const last = $("protocols");
    opened = [...folded()].filter((d) => last.compareDocumentPosition(d) & Node.DOCUMENT_POSITION_PRECEDING);
    for (const d of opened) d.open = true;
  });
  window.addEventListener("afterprint", () => { for (const d of opened) d.open = false; });
})();
