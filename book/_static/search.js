/* The order of hits, what is shown below them, and marks on the page found. There the search quotes the page and fetches it for that, which
   browsers forbid for a book on a disk: then the texts of the pages come in a script, which only this page loads. */
(function () {
  "use strict";
  const API = 30;
  const data = new URL("search-data.js", document.currentScript.src);
  if (DOCUMENTATION_OPTIONS.pagename !== "search") {
    /* Sphinx marks the words that were searched for, unless it takes the page for the search: the theme loads that on all. */
    document.addEventListener("DOMContentLoaded", SphinxHighlight.highlightSearchWords);
    return;
  }

  /* Sphinx's own weights, but chapters come before the pages of the API, which have every word. */
  window.Scorer = {
    objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
    title: 15, partialTitle: 7, term: 5, partialTerm: 2,
    score: ([page, , , , score]) => score - (page.startsWith("book/generated/api") ? API : 0),
  };
  if (location.protocol !== "file:") return;

  const texts = new Promise(function (resolve) {
    const script = document.createElement("script");
    script.src = data.href;
    script.onload = () => resolve(window.tttnnTexts);
    document.head.append(script);
  });

  /* The page as the search takes it apart: a main part, with a section for each heading. */
  function page(sections) {
    const main = document.createElement("div");
    main.setAttribute("role", "main");
    for (const [id, text] of sections) main.append(Object.assign(document.createElement("section"), { id, textContent: text }));
    return main.outerHTML;
  }

  window.fetch = async function (address) {
    const name = new URL(address, location.href).pathname, all = await texts;
    const found = Object.keys(all).find(each => name.endsWith("/" + each + ".html"));
    return { text: async () => page(found ? all[found] : []) };
  };
})();
