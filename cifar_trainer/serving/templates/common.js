"use strict";
const $ = (id) => document.getElementById(id);

/* Kept until the tab is closed, so that users enter the key only once. */
const savedKey = () => sessionStorage.getItem("cifar-trainer-key") || "";
const saveKey = (key) => sessionStorage.setItem("cifar-trainer-key", key);

function ask(url, options = {}) {
  const key = savedKey();
  const headers = {...options.headers, ...(key ? {"Authorization": "Bearer " + key} : {})};
  return fetch(url, {...options, headers});
}
