"""An asyncio peer that does what the replaced class does: four bytes of length, big-endian, and
JSON with metadata and data.

    asyncio_peer.py serve|drive

Speaks the lines of src/job.rs on standard input and output. The payload is text, because JSON has
no bytes: as many characters as the other subjects have bytes. Messages carry their sequence, and
the receiver checks it and the length of the data.
"""

import asyncio
import json
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections import Counter

PREFIX = struct.Struct(">I")
# Streamed bytes between two readings of the clock.
BATCH_BYTES = 64 << 10
# The longest message is a MiB of data; the default limit of a stream is 64 KiB.
STREAM_LIMIT = 4 << 20
# As in src/job.rs, and as many wait as in src/tasks.rs.
BULK_BYTES = 1 << 20
BULK_PERIOD_NS = 10_000_000
BULK_QUEUE = 4


def encode(kind, sequence, data):
    message = {"metadata": {"type": kind, "sequence": sequence}, "data": data}
    body = json.dumps(message).encode()
    return PREFIX.pack(len(body)) + body


async def read_message(reader):
    (length,) = PREFIX.unpack(await reader.readexactly(PREFIX.size))
    return json.loads(await reader.readexactly(length))


def say(line):
    print(json.dumps(line), flush=True)


def end_with_standard_input():
    def watch():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class Counted:
    """What the receiver saw of messages with a sequence of their own."""

    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        self.expected, self.frames, self.errors = 0, 0, 0

    def count(self, message):
        sequence = message["metadata"]["sequence"]
        if sequence == self.expected and len(message["data"]) == self.data_bytes:
            self.frames += 1
        else:
            self.errors += 1
        self.expected = sequence + 1

    def take(self):
        seen = [self.frames, self.errors]
        self.frames, self.errors = 0, 0
        return seen


async def serve(job):
    payload_bytes = job["case"]["payload_bytes"]

    async def handle(reader, writer):
        counted = {"stream": Counted(payload_bytes), "bulk": Counted(BULK_BYTES)}
        try:
            while True:
                message = await read_message(reader)
                kind = message["metadata"]["type"]
                if kind == "echo":
                    writer.write(encode(kind, message["metadata"]["sequence"], message["data"]))
                    await writer.drain()
                elif kind == "ask":
                    writer.write(encode("seen", 0, counted[message["data"]].take()))
                    await writer.drain()
                else:
                    counted[kind].count(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=STREAM_LIMIT, backlog=4096)
    host, port = server.sockets[0].getsockname()
    version = ".".join(map(str, sys.version_info[:3]))
    say({"ready": {"address": f"{host}:{port}", "version": f"Python {version}"}})
    await asyncio.Future()


class Client:
    """One connection, and what its round trips were."""

    def __init__(self, reader, writer, payload_bytes):
        self.reader, self.writer = reader, writer
        pattern = "abcdefghijklmnopqrstuvwxyz012345"
        self.data = (pattern * (payload_bytes // len(pattern) + 1))[:payload_bytes]
        self.sequence = 0
        self.latency = []
        self.errors = 0

    @classmethod
    async def connect(cls, job, payload_bytes):
        host, port = job["address"].rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port), limit=STREAM_LIMIT)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = cls(reader, writer, payload_bytes)
        await client.echo(time.monotonic_ns())
        if client.errors:
            raise RuntimeError("the first echo is not what was sent")
        return client

    async def echo(self, start):
        self.sequence += 1
        self.writer.write(encode("echo", self.sequence, self.data))
        await self.writer.drain()
        answer = await read_message(self.reader)
        right = answer["metadata"]["sequence"] == self.sequence and answer["data"] == self.data
        end = time.monotonic_ns()
        self.latency.append(end - start)
        self.errors += not right
        return end

    async def run(self, until):
        now = time.monotonic_ns()
        while now < until:
            now = await self.echo(time.monotonic_ns())

    async def pace(self, rate_hz, duration_ns, bulk):
        period = 1_000_000_000 // rate_hz
        due = time.monotonic_ns() + period
        until = due + duration_ns
        while due < until:
            while time.monotonic_ns() < due:
                if bulk:
                    # Lets the task that sends bulk run.
                    await asyncio.sleep(0)
            now = await self.echo(due)
            due += period
            if bulk and bulk.due <= now:
                await bulk.carry()

    async def pump(self, first, until):
        batch = max(BATCH_BYTES // len(self.data), 1)
        sequence = first
        while True:
            for _ in range(batch):
                self.writer.write(encode("stream", sequence, self.data))
                sequence += 1
            await self.writer.drain()
            if time.monotonic_ns() >= until:
                break
        frames, errors = await self.ask("stream")
        return sequence, frames, errors

    async def ask(self, kind):
        self.writer.write(encode("ask", 0, kind))
        await self.writer.drain()
        return (await read_message(self.reader))["data"]


class Bulk:
    """Bulk messages, from a task of their own over a connection of their own."""

    def __init__(self, client):
        self.client = client
        self.queue = asyncio.Queue(BULK_QUEUE)
        self.task = asyncio.create_task(self.run())
        self.sequence = 0
        self.due = time.monotonic_ns()

    @classmethod
    async def connect(cls, job):
        return cls(await Client.connect(job, BULK_BYTES))

    async def run(self):
        while True:
            sequence = await self.queue.get()
            if sequence is None:
                return await self.client.ask("bulk")
            self.client.writer.write(encode("bulk", sequence, self.client.data))
            await self.client.writer.drain()

    async def put(self, sequence):
        while self.queue.full() and not self.task.done():
            await asyncio.sleep(0)
        if self.task.done():
            # It has failed, and so does the round.
            await self.task
        self.queue.put_nowait(sequence)

    async def carry(self):
        await self.put(self.sequence)
        self.sequence += 1
        self.due += BULK_PERIOD_NS

    async def ask(self):
        """What the receiver saw since it was last asked. Another task goes on after that."""
        await self.put(None)
        seen = await self.task
        self.task = asyncio.create_task(self.run())
        return seen


class Stopwatch:
    def __init__(self, job):
        # clock_getcpuclockid(3) of another process.
        self.server = (~job["server_pid"] << 3) | 2
        self.cpu_server = time.clock_gettime_ns(self.server)
        self.cpu_client = time.process_time_ns()
        self.started = time.monotonic_ns()

    def stop(self, frames, errors, latency=None):
        elapsed = time.monotonic_ns() - self.started
        return {
            "frames": frames,
            "elapsed_ns": elapsed,
            "cpu_client_ns": time.process_time_ns() - self.cpu_client,
            "cpu_server_ns": time.clock_gettime_ns(self.server) - self.cpu_server,
            "errors": errors,
            "counts": sorted(Counter(latency).items()) if latency is not None else None,
        }


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def drive_one(job, client):
    case, warm_up, duration = job["case"], job["warm_up_ns"], job["duration_ns"]
    if case["scenario"] == "stream":
        sequence, frames, errors = await client.pump(0, 0)
        if frames != sequence or errors:
            raise RuntimeError(f"of the first {sequence} messages {frames} arrived")

        def wrong(sent, frames, errors):
            return errors + abs(sent - frames - errors)

        first = sequence
        sequence, frames, errors = await client.pump(first, time.monotonic_ns() + warm_up)
        warming = wrong(sequence - first, frames, errors)
        first, stopwatch = sequence, Stopwatch(job)
        sequence, frames, errors = await client.pump(first, time.monotonic_ns() + duration)
        return stopwatch.stop(frames, warming + wrong(sequence - first, frames, errors))
    if case["scenario"] == "paced":
        return await drive_paced(job, client)
    await client.run(time.monotonic_ns() + warm_up)
    client.latency, stopwatch = [], Stopwatch(job)
    await client.run(time.monotonic_ns() + duration)
    return stopwatch.stop(2 * len(client.latency), client.errors, client.latency)


async def drive_paced(job, client):
    case, warm_up, duration = job["case"], job["warm_up_ns"], job["duration_ns"]
    bulk = await Bulk.connect(job) if case["bulk"] else None
    await client.pace(case["rate_hz"], warm_up, bulk)
    if bulk:
        frames, errors = await bulk.ask()
        if frames == 0 or errors:
            raise RuntimeError(f"of the first bulk messages {frames} arrived, {errors} were wrong")
    sent = bulk.sequence if bulk else 0
    client.latency, stopwatch = [], Stopwatch(job)
    await client.pace(case["rate_hz"], duration, bulk)
    result = stopwatch.stop(2 * len(client.latency), client.errors, client.latency)
    if not bulk:
        return result
    frames, errors = await bulk.ask()
    wrong = errors + abs(bulk.sequence - sent - frames - errors)
    return {
        **result,
        "errors": result["errors"] + wrong,
        "bulk_frames": frames,
        "bulk_frames_due": duration // BULK_PERIOD_NS,
    }


async def drive_many(job):
    count = job["case"]["connections"]
    resident = resident_bytes(job["server_pid"])
    clients = [await Client.connect(job, job["case"]["payload_bytes"]) for _ in range(count)]
    added = resident_bytes(job["server_pid"]) - resident

    async def run_all(until):
        for client in clients:
            client.latency = []
        await asyncio.gather(*(client.run(until) for client in clients))

    await run_all(time.monotonic_ns() + job["warm_up_ns"])
    stopwatch = Stopwatch(job)
    await run_all(time.monotonic_ns() + job["duration_ns"])
    latency = [ns for client in clients for ns in client.latency]
    result = stopwatch.stop(2 * len(latency), sum(c.errors for c in clients), latency)
    return {**result, "resident_bytes_per_connection": max(added, 0) / count}


async def drive(job):
    if job["case"]["scenario"] == "fan-in":
        result = await drive_many(job)
    else:
        result = await drive_one(job, await Client.connect(job, job["case"]["payload_bytes"]))
    say({"round": result})


def main():
    job = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, job["cores"])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    end_with_standard_input()
    if sys.argv[1] == "serve":
        asyncio.run(serve(job))
        return
    try:
        asyncio.run(drive(job))
    except Exception as error:  # Whatever it is, the runner reports it.
        say({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.flush()
    # The watching thread still reads standard input.
    os._exit(0)


if __name__ == "__main__":
    main()
