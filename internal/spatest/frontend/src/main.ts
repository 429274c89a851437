import './style.css';
import dot from './dot.svg'; // small: the build makes a data: URL of it
import { text } from './message.ts';

const element = (id: string): HTMLElement => document.getElementById(id)!;

element('message').textContent = text;
(element('dot') as HTMLImageElement).src = dot;

import.meta.hot?.accept('./message.ts', (changed) => {
  element('message').textContent = changed?.text;
});

import('./late.ts').then(({ late }) => {
  element('late').textContent = late();
});

const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
worker.onmessage = ({ data }) => {
  element('worker').textContent = data;
};
worker.postMessage(6);

fetch('/auth/session?anonymous=200', { headers: { 'X-CSRF': '1' } })
  .then((res) => res.json())
  .then((session) => {
    element('session').textContent = session.authenticated ? 'signed in' : 'signed out';
  });

element('sign-in').addEventListener('click', () => {
  location.assign('/login?returnUrl=' + encodeURIComponent(location.pathname));
});
