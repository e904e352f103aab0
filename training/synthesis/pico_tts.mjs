// SVOX Pico (npm: @echogarden/svoxpico-wasm) as a filter: one JSON line {"id", "ssml"} in, one block out.
// A block is: int32 id, int32 n_bytes (-1: the text could not be spoken), then n_bytes of 16-bit mono PCM, 16 kHz.
// usage: node pico_tts.mjs PACKAGE_DIR LINGWARE_DIR
import { createInterface } from 'node:readline';
import { readFileSync, readdirSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const ARENA_BYTES = 4_000_000, CHUNK_BYTES = 4096, STEP_BUSY = 201;

async function openEngine(packageDir, lingwareDir) {
  const { default: create } = await import(pathToFileURL(join(packageDir, 'svoxpico.js')));
  const wasm = await create();
  const out = wasm._malloc(16);
  const text = (string) => {
    const bytes = Buffer.from(string + '\0', 'utf8'), at = wasm._malloc(bytes.length);
    wasm.HEAPU8.set(bytes, at);
    return [at, bytes.length];
  };
  const check = (status, step) => { if (status !== 0) throw new Error(`Pico: ${step} returned ${status}`); };
  const pointer = () => wasm.HEAP32[out >> 2];

  check(wasm._pico_initialize(wasm._malloc(ARENA_BYTES), ARENA_BYTES, out), 'initialize');
  const system = pointer(), [voice] = text('voice'), names = [];
  for (const file of readdirSync(lingwareDir).filter((name) => name.endsWith('.bin')).sort().reverse()) {
    wasm.FS.writeFile('/' + file, readFileSync(join(lingwareDir, file)));
    check(wasm._pico_loadResource(system, text('/' + file)[0], out), `load ${file}`);
    const resource = pointer(), name = wasm._malloc(256);
    check(wasm._pico_getResourceName(system, resource, name), 'getResourceName');
    names.push(name);
  }
  check(wasm._pico_createVoiceDefinition(system, voice), 'createVoiceDefinition');
  for (const name of names) check(wasm._pico_addResourceToVoiceDefinition(system, voice, name), 'addResource');
  check(wasm._pico_newEngine(system, voice, out), 'newEngine');
  const engine = pointer(), pcm = wasm._malloc(CHUNK_BYTES);

  return function speak(ssml) {
    const [at, size] = text(ssml), blocks = [];
    for (let read = 0; read < size;) {
      check(wasm._pico_putTextUtf8(engine, at + read, Math.min(size - read, 32000), out), 'putText');
      read += wasm.HEAP16[out >> 1];
      for (let status = STEP_BUSY; status === STEP_BUSY;) {
        status = wasm._pico_getData(engine, pcm, CHUNK_BYTES, out, out + 8);
        const got = wasm.HEAP16[out >> 1];
        if (got > 0) blocks.push(Buffer.from(wasm.HEAPU8.slice(pcm, pcm + got)));
      }
    }
    if (wasm._free) wasm._free(at);
    return Buffer.concat(blocks);
  };
}

function emit(buffer) {  // stdout is a pipe: write all of it, or wait
  for (let at = 0; at < buffer.length;) {
    try { at += writeSync(1, buffer, at); } catch (error) { if (error.code !== 'EAGAIN') throw error; }
  }
}

const speak = await openEngine(process.argv[2], process.argv[3]);
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line), head = Buffer.alloc(8);
  head.writeInt32LE(job.id, 0);
  let pcm = null;
  try { pcm = speak(job.ssml); } catch (error) { console.error(`${job.id}: ${error.message}`); }
  head.writeInt32LE(pcm ? pcm.length : -1, 4);
  emit(pcm ? Buffer.concat([head, pcm]) : head);
}
