// What transformers.js answers under Node: jobs.json -> answers.json. Started by scripts/check_loaders.py, which
// copies this file beside the node_modules that it installs.
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { env, pipeline } from '@huggingface/transformers';

const TASKS = { encoder: 'feature-extraction', sequence: 'text-classification', tokens: 'token-classification' };
const given = JSON.parse(readFileSync(process.argv[2], 'utf8'));
env.allowRemoteModels = false;
env.useFSCache = false;

function batches(texts, size) {
  return Array.from({ length: Math.ceil(texts.length / size) }, (_, i) => texts.slice(i * size, (i + 1) * size));
}

// The logits of each text; of token classifiers those of the tokens that are not padding.
async function logits(pipe, texts, task) {
  const inputs = pipe.tokenizer(texts, { padding: true, truncation: true });
  const found = (await pipe.model(inputs)).logits.tolist();
  if (task === 'sequence') return found;
  const mask = inputs.attention_mask.tolist();
  return found.map((row, i) => row.filter((_, j) => mask[i][j] == 1));
}

// The names that the pipeline gives: one a text, the set of those above 0.5, or [place, tag] of tokens.
async function labels(pipe, texts, job) {
  if (job.task === 'tokens') {
    return (await pipe(texts, { ignore_labels: [] })).map((row) => row.map((found) => [found.index, found.entity]));
  }
  const answers = await pipe(texts, { top_k: null });
  const best = (row) => row.reduce((a, b) => (b.score > a.score ? b : a)).label;
  return answers.map((row) => (job.multi ? row.filter((f) => f.score > 0.5).map((f) => f.label).sort() : best(row)));
}

async function answer(job) {
  env.localModelPath = dirname(job.folder);
  const pipe = await pipeline(TASKS[job.task], basename(job.folder), { dtype: job.dtype });
  const values = [];
  const names = job.task === 'encoder' ? null : [];
  for (const texts of batches(job.texts, job.batch)) {
    if (names === null) {
      const found = await pipe(texts, { pooling: job.pooling, normalize: job.normalize });
      values.push(...found.tolist());
    } else {
      values.push(...(await logits(pipe, texts, job.task)));
      names.push(...(await labels(pipe, texts, job)));
    }
  }
  await pipe.dispose();
  return { values, labels: names };
}

const answers = [];
for (const job of given.jobs) {
  try {
    answers.push(await answer(job));
  } catch (error) {
    answers.push({ error: String(error) });
  }
}
const own = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version;
const versions = {
  '@huggingface/transformers': own('@huggingface/transformers'),
  'onnxruntime-node': own('onnxruntime-node'),
  node: process.version,
};
writeFileSync(process.argv[3], JSON.stringify({ versions, answers }));
