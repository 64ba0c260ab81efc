"""A client in another language: it knows the proto files, the JWKS document and nothing else of protem.

Usage: client.py ADDRESS PROTO_DIR OUT_DIR, with the caller token in AGENT_TOKEN and the catalog file in CATALOG.
Prints one line per check; ends with 1 at the first that fails.
"""

import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import tomllib
import uuid

import grpc
import jwt
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICES = {
    "protem.v1.AccessService",
    "protem.v1.ApprovalService",
    "protem.v1.BundleService",
    "protem.v1.GovernanceService",
    "protem.v1.RevocationService",
    "protem.v1.UsageService",
    "grpc.health.v1.Health",
}
RESOURCE, SCOPE, IDENTITY = "orders-api", "orders:read", "payments/agent"


def generate(proto_dir, out_dir):
    """Compiles the contract with the language's own tools."""
    files = sorted(str(path.relative_to(proto_dir)) for path in proto_dir.glob("protem/v1/*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto_dir}"]
    command += [f"--python_out={out_dir}", f"--grpc_python_out={out_dir}"]
    subprocess.run(command + files, check=True)
    sys.path.insert(0, str(out_dir))


def uuid7():
    """A UUIDv7 (RFC 9562): Unix milliseconds, then chance."""
    value = bytearray(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10))
    value[6] = 0x70 | value[6] & 0x0F
    value[8] = 0x80 | value[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(value)))


def check(what, holds, seen=None):
    print(("ok    " if holds else "FAILED ") + what, flush=True)
    if not holds:
        sys.exit(f"{what}: saw {seen!r}")


class Observer:
    """Follows the revocation stream on a thread, as a reader who enforces nothing."""

    def __init__(self, stub, pb, metadata):
        self.pb, self.out, self.seen = pb, queue.Queue(), queue.Queue()
        self.out.put(pb.SubscribeRequest(open=pb.Open(version=1)))
        self.call = stub.Subscribe(iter(self.out.get, None), metadata=metadata)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for message in self.call:
                self.seen.put(message)
        except grpc.RpcError as error:
            self.seen.put(error)

    def until(self, wanted, seconds=10):
        """The first message that `wanted` likes, and the kinds of those before it."""
        kinds, deadline = [], time.monotonic() + seconds
        while True:
            try:
                message = self.seen.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                sys.exit(f"the stream sent only {kinds}")
            if isinstance(message, grpc.RpcError):
                sys.exit(f"the stream ended after {kinds}: {message.code()} {message.details()}")
            kinds.append(message.WhichOneof("message"))
            if wanted(message):
                return message, kinds

    def ping(self, nonce):
        self.out.put(self.pb.SubscribeRequest(ping=self.pb.Ping(nonce=nonce, state="FRESH")))

    def close(self):
        self.out.put(None)


def main():
    address, proto_dir, out_dir = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    generate(proto_dir, out_dir)
    from protem.v1 import access_pb2, access_pb2_grpc, grant_pb2, revocations_pb2, revocations_pb2_grpc

    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=10)
    agent = [("authorization", "Bearer " + os.environ["AGENT_TOKEN"])]

    listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    check("reflection lists every service", SERVICES <= listed, SERVICES - listed)

    access = access_pb2_grpc.AccessServiceStub(channel)
    who = access.WhoAmI(access_pb2.WhoAmIRequest(), metadata=agent)
    check("the broker knows the caller", who.identity == IDENTITY, who)

    observer = Observer(revocations_pb2_grpc.RevocationServiceStub(channel), revocations_pb2, agent)
    _, kinds = observer.until(lambda message: message.WhichOneof("message") == "snapshot_end")
    check("the stream opens with opened, keys, catalog, snapshot",
          kinds[:4] == ["opened", "keys", "catalog", "snapshot_begin"], kinds)

    request = access_pb2.RequestAccessRequest(
        task=grant_pb2.Task(id=f"python-{uuid.uuid4()}", kind="batch"), resource=RESOURCE, scopes=[SCOPE],
        purpose="a client in Python", request_id=uuid7())
    first = access.RequestAccess(request, metadata=agent)
    check("the grant is active", first.grant.state == grant_pb2.GRANT_STATE_ACTIVE, first.grant)
    again = access.RequestAccess(request, metadata=agent)
    check("a retry answers the same grant and token",
          (again.grant.id, again.credential.token) == (first.grant.id, first.credential.token))

    token = first.credential.token
    key = jwt.PyJWKClient(f"http://{address}/jwks.json").get_signing_key_from_jwt(token)
    catalog = tomllib.loads(pathlib.Path(os.environ["CATALOG"]).read_text())
    audience = catalog["resource"][RESOURCE]["audience"]
    claims = jwt.decode(token, key.key, algorithms=["EdDSA"], audience=audience,
                        options={"require": ["exp", "iat", "nbf", "iss", "sub", "aud", "jti"]})
    header = jwt.get_unverified_header(token)
    check("PyJWT verifies the credential by /jwks.json", claims["client_id"] == IDENTITY, claims)
    check("it is an access token (RFC 9068)", header["typ"] == "at+jwt", header)
    check("it says scope, grant and task", claims["scope"] == SCOPE and {"grant", "seq", "task", "epoch", "fresh"}
          <= set(claims["protem"]), claims)
    try:
        jwt.decode(token, key.key, algorithms=["EdDSA"], audience="https://other.example")
        check("it counts for one audience only", False)
    except jwt.InvalidAudienceError:
        check("it counts for one audience only", True)

    done = access.CompleteTask(access_pb2.CompleteTaskRequest(task_id=request.task.id, outcome="success"), metadata=agent)
    check("completing ends the grant", [grant.id for grant in done.ended] == [first.grant.id], done)

    def ends_it(message):
        items = message.batch.items if message.WhichOneof("message") == "batch" else []
        return any(item.seq <= done.seq and item.reason == grant_pb2.END_REASON_COMPLETED for item in items)

    observer.until(ends_it)
    check("the observer sees the revocation", True)
    nonce = os.urandom(16)
    observer.ping(nonce)
    proof, _ = observer.until(lambda message: message.checkpoint.nonce == nonce)
    check("the checkpoint echoes the nonce and covers it", proof.checkpoint.seq >= done.seq, proof)
    observer.close()

    try:
        access.RequestAccess(access_pb2.RequestAccessRequest(task=request.task, resource=RESOURCE, scopes=[SCOPE],
                                                             purpose="after the end", request_id=uuid7()), metadata=agent)
        check("an ended task takes no request", False)
    except grpc.RpcError as error:
        check("an ended task takes no request", error.code() == grpc.StatusCode.FAILED_PRECONDITION, error.details())
    try:
        access.WhoAmI(access_pb2.WhoAmIRequest())
        check("a caller without a token is refused", False)
    except grpc.RpcError as error:
        check("a caller without a token is refused", error.code() == grpc.StatusCode.UNAUTHENTICATED, error.details())


if __name__ == "__main__":
    main()
