window.tttnnCards = {}; /* the build writes it, from all pages */
