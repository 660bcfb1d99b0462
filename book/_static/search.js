/* Below a hit the search shows where the word stands, and reads the page for that: which browsers forbid for a book on
   a disk. There the texts of the pages come in a script, which only this page loads. */
(function () {
  "use strict";
  const data = new URL("search-data.js", document.currentScript.src);
  if (location.protocol !== "file:" || DOCUMENTATION_OPTIONS.pagename !== "search") return;

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
