// The tests ask over which paths cookies and credentials came here.
const secrets = {
  name: 'secrets',
  configureServer(server) {
    const seen = [];
    server.httpServer.on('upgrade', (req) => note(req));
    function note(req) {
      if (req.headers.cookie || req.headers.authorization) seen.push(req.url);
    }
    server.middlewares.use((req, res, next) => {
      note(req);
      if (req.url !== '/__secrets') return next();
      res.setHeader('Content-Type', 'application/json');
      res.end(JSON.stringify(seen));
    });
  },
};

export default {
  plugins: [secrets],
  html: { cspNonce: process.env.CSP_NONCE },
};
