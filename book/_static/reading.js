/* Cards beside links to terms, publications and figures, and roles that the theme leaves out. */
(function () {
  "use strict";
  const data = new URL("cards-data.js", document.currentScript.src);
  const LINKS = 'article a.reference.internal[href*="#"]';
  let card;

  /* What a link leads to; pages call a term and a publication by the name behind the hash. */
  function text(link) {
    return window.tttnnCards[decodeURIComponent(link.hash.slice(1))];
  }

  function hide() {
    card.hidden = true;
  }

  function show(link) {
    card.textContent = text(link);
    card.hidden = false;
    link.setAttribute("aria-describedby", card.id);
    const place = link.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - card.offsetWidth - 16);
    const above = place.top > card.offsetHeight + 16;
    card.style.left = Math.max(8, left) + scrollX + "px";
    card.style.top = (above ? place.top - card.offsetHeight - 6 : place.bottom + 6) + scrollY + "px";
  }

  function follow(link) {
    link.addEventListener("mouseenter", () => show(link));
    link.addEventListener("focus", () => show(link));
    link.addEventListener("mouseleave", hide);
    link.addEventListener("blur", hide);
  }

  function cards() {
    card = Object.assign(document.createElement("div"), { id: "tttnn-card", className: "tttnn-card", hidden: true });
    card.setAttribute("role", "tooltip");
    document.body.append(card);
    [...document.querySelectorAll(LINKS)].filter(text).forEach(follow);
    document.addEventListener("keydown", event => event.key === "Escape" && hide());
  }

  /* The side bar is a landmark, its arrows have names, and a list of publications has no deprecated roles. */
  function roles() {
    for (const bar of document.querySelectorAll(".bd-sidebar-primary")) {
      bar.setAttribute("role", "navigation");
      bar.setAttribute("aria-label", "Book");
    }
    for (const arrow of document.querySelectorAll(".bd-sidebar-primary summary")) {
      const page = arrow.closest("li")?.querySelector("a")?.textContent.trim();
      arrow.setAttribute("aria-label", "Pages below " + (page || "this one"));
    }
    /* Folded code is called what it shows: "Show code cell source". */
    for (const fold of document.querySelectorAll("details.hide > summary")) fold.removeAttribute("aria-label");
    for (const list of document.querySelectorAll(".citation-list, .citation")) list.removeAttribute("role");
  }

  document.addEventListener("DOMContentLoaded", function () {
    roles();
    const script = document.createElement("script");
    script.src = data.href;
    script.onload = cards;
    document.head.append(script);
  });
})();
