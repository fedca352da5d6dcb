// Lets bench.js import packages as in an application, though node_modules is in target/.
import { register } from 'node:module';

const packages = new URL('../../target/render-bench/', import.meta.url).href;
const hook = `export const resolve = (specifier, context, next) => next(specifier,
  /^[a-z@][a-z/@.-]*$/.test(specifier) && !context.parentURL?.includes('/node_modules/')
    ? { ...context, parentURL: ${JSON.stringify(packages)} } : context);`;
register(`data:text/javascript,${encodeURIComponent(hook)}`);
