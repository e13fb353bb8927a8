"use strict";
const $ = (id) => document.getElementById(id);

/* For as long as the tab is open, so that all pages need the key only once. */
const savedKey = () => sessionStorage.getItem("cifar-trainer-key") || "";
const saveKey = (key) => sessionStorage.setItem("cifar-trainer-key", key);

function ask(url, options = {}) {
  const key = savedKey();
  const headers = {...options.headers, ...(key ? {"Authorization": "Bearer " + key} : {})};
  return fetch(url, {...options, headers});
}
