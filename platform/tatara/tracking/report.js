"use strict";
// Everything on the page works without this: it adds read-outs to the charts and marks the section in view.
(() => {
  const format = (value) =>
    value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2)
      : value.toLocaleString("en", { maximumSignificantDigits: Math.abs(value) >= 1e4 ? 8 : 5 });

  const element = (name, className, parent) => {
    const made = document.createElement(name);
    made.className = className;
    parent.append(made);
    return made;
  };

  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? low : high;
  };

  for (const planes of document.querySelectorAll(".planes")) {
    const curves = JSON.parse(planes.querySelector("[data-curves]").dataset.curves);
    for (const plot of planes.querySelectorAll(".plot")) {
      const [x0, x1, y0, y1, log] = JSON.parse(plot.dataset.bounds);
      const across = (x) => (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5);
      const scaled = log ? Math.log : (y) => y;
      const up = (y) => (y1 > y0 ? (scaled(y) - scaled(y0)) / (scaled(y1) - scaled(y0)) : 0.5);
      let parts = null;
      let step = null;

      const hide = () => {
        if (parts) for (const part of [parts.cursor, parts.tip, ...parts.dots]) part.remove();
        parts = null;
      };
      const show = (fraction) => {
        parts ??= {
          cursor: element("i", "cursor", plot), tip: element("div", "tip", plot),
          dots: curves.map((curve) => element("i", `dot mark-${curve.s}`, plot)),
        };
        parts.tip.setAttribute("role", "status");
        const x = x0 + fraction * (x1 - x0);
        const found = curves.map((curve) => curve.p[nearest(curve.p, x)]);
        // The densest curve leads; others show only where they have a point near by.
        const lead = curves.reduce((best, curve, i) => (curve.p.length > curves[best].p.length ? i : best), 0);
        step = found[lead][0];
        parts.tip.textContent = `${plot.dataset.x ?? "step"} ${format(step)}`;
        found.forEach(([px, py], i) => {
          const near = i === lead || Math.abs(px - step) <= (x1 - x0) * 0.02;
          parts.dots[i].style.cssText = `left:${across(px) * 100}%;top:${(1 - up(py)) * 100}%;display:${near ? "" : "none"}`;
          if (!near) return;
          const line = element("span", "", parts.tip);
          element("i", `key-${curves[i].s}`, line);
          line.append(`${curves[i].l} ${format(py)}`);
        });
        const left = across(step) * plot.clientWidth;
        parts.cursor.style.left = `${left}px`;
        const width = parts.tip.offsetWidth;
        const beside = left + 12 + width > plot.clientWidth ? left - 12 - width : left + 12;
        parts.tip.style.left = `${Math.max(0, Math.min(beside, plot.clientWidth - width))}px`;
      };

      const point = (event) => {
        const box = plot.getBoundingClientRect();
        show(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
      };
      plot.addEventListener("pointermove", point);
      plot.addEventListener("pointerdown", point);
      plot.addEventListener("pointerleave", hide);
      plot.addEventListener("blur", hide);
      plot.tabIndex = 0;
      plot.setAttribute("role", "group");
      plot.setAttribute("aria-label", `Values by ${plot.dataset.x ?? "step"}: move with the left and right arrow keys`);
      plot.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
        if (move === undefined) return;
        event.preventDefault();
        show(Math.min(1, Math.max(0, (parts && step !== null ? across(step) : 0) + (parts ? move : 0))));
      });
    }
  }

  // What a log says last is what matters.
  for (const details of document.querySelectorAll("#logs details")) {
    const showEnd = () => { const log = details.querySelector("pre"); log.scrollTop = log.scrollHeight; };
    details.addEventListener("toggle", showEnd);
    showEnd();
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const bar = document.querySelector("nav > div");
  const mark = () => {
    let current = null;
    for (const section of document.querySelectorAll("main > section")) {
      if (section.getBoundingClientRect().top < 120) current = section.id;
    }
    for (const [id, link] of links) {
      if (id !== current) { link.removeAttribute("aria-current"); continue; }
      if (link.hasAttribute("aria-current")) continue;
      link.setAttribute("aria-current", "true");
      bar.scrollLeft = link.offsetLeft - bar.offsetLeft - 40;
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
