"""What the test Hub answers: the addresses that the huggingface_hub client asks for, one function each."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import yaml
from hub_repos import File, HubError, Repo, front_matter, is_lfs

if TYPE_CHECKING:
    from hub_server import Hub


@dataclass
class Reply:
    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, data: object, status: int = 200, **headers: str) -> Reply:
        return cls(json.dumps(data).encode(), status, {"Content-Type": "application/json", **headers})


_REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<repo>[^/]+/[^/]+)"
_FILES = r"/(?P<kind>datasets/|spaces/|)(?P<repo>[^/]+/[^/]+?)"
_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Reply]]] = []


def route(methods: str, pattern: str) -> Callable[[Callable[..., Reply]], Callable[..., Reply]]:
    def keep(answer: Callable[..., Reply]) -> Callable[..., Reply]:
        _ROUTES.extend((method, re.compile(pattern), answer) for method in methods.split())
        return answer

    return keep


class Ask:
    """A request: who asks, for which repository, with which query and body."""

    def __init__(self, hub: Hub, method: str, url: str, headers: Mapping[str, str], body: bytes):
        self.hub, self.method, self.body, self.headers = hub, method, body, headers
        self.query = parse_qs(urlsplit(url).query)
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        self.user = hub.users.get(token)

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("1", "true")

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def repo(self, kind: str, repo_id: str, *, write: bool = False) -> Repo:
        """What the Hub says of a repository that one may not see is what it says of one that is not there."""
        kind = kind.rstrip("s/") or "model"
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not (self.user and self.user.may_read(repo))):
            raise HubError(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write:
            self.require(repo.owner, f"write to {kind} {repo_id}")
        return repo

    def require(self, owner: str, what: str) -> None:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if not self.user.may_write(owner):
            raise HubError(403, f"Forbidden: you don't have the rights to {what}")


def paged(ask: Ask, path: str, entries: list, size: int) -> Reply:
    """One page of a list, with the address of the next in its Link."""
    at = int(ask.query.get("cursor", ["0"])[0])
    query = {**ask.query, "cursor": [str(at + size)]}
    following = f'<{ask.hub.url}{path}?{urlencode(query, doseq=True)}>; rel="next"'
    return Reply.json(entries[at : at + size], **({"Link": following} if at + size < len(entries) else {}))


@route("GET", r"/api/whoami-v2")
def whoami(ask: Ask) -> Reply:
    if ask.user is None:
        raise HubError(401, "Invalid username or password.")
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": ask.user.role}}
    orgs = [{"type": "org", "name": name} for name in ask.user.orgs]
    return Reply.json({"type": "user", "id": "1", "name": ask.user.name, "orgs": orgs, "auth": auth})


@route("POST", r"/api/repos/create")
def create_repo(ask: Ask) -> Reply:
    wanted = ask.json()
    kind = wanted.get("type") or "model"
    owner = wanted.get("organization") or (ask.user.name if ask.user else "")
    ask.require(owner, f"create a {kind} under the namespace {owner!r}")
    repo_id = f"{owner}/{wanted['name']}"
    url = f"{ask.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
    if (kind, repo_id) in ask.hub.repos:
        return Reply.json({"error": f"You already created this {kind} repo", "url": url}, 409)
    private = wanted.get("private") or wanted.get("visibility") == "private"
    ask.hub.repos[kind, repo_id] = Repo(kind, repo_id, bool(private))
    return Reply.json({"url": url, "name": repo_id, "id": repo_id})


@route("DELETE", r"/api/repos/delete")
def delete_repo(ask: Ask) -> Reply:
    wanted = ask.json()
    repo = ask.repo(wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}", write=True)
    del ask.hub.repos[repo.kind, repo.id]
    return Reply()


@route("PUT", rf"{_REPO}/settings")
def settings(ask: Ask, kind: str, repo: str) -> Reply:
    wanted, found = ask.json(), ask.repo(kind, repo, write=True)
    found.private = wanted.get("visibility", "private" if wanted.get("private") else "public") == "private"
    return Reply.json({"private": found.private})


@route("POST", r"/api/validate-yaml")
def validate_yaml(ask: Ask) -> Reply:
    wanted, errors, warned = ask.json(), [], []
    try:
        card = front_matter(wanted["content"]) or {}
        if not card:
            warned.append({"message": "empty or missing yaml metadata in repo card"})
        if not isinstance(card, dict):
            errors.append("metadata must be a mapping")
        elif wanted["repoType"] == "space" and card.get("sdk") not in ("gradio", "docker", "static"):
            errors.append('"sdk" is required')
        elif not isinstance(card.get("tags", []), list) or not isinstance(card.get("model-index", []), list):
            errors.append('"tags" and "model-index" must be lists')
    except yaml.YAMLError as error:
        errors.append(f"Invalid YAML: {error}")
    said = [{"message": error} for error in errors]
    return Reply.json({"errors": said, "warnings": warned}, 400 if errors else 200)


@route("GET", r"/api/(?P<kind>model|dataset|space)s")
def repositories(ask: Ask, kind: str) -> Reply:
    query, found = ask.query, []
    for repo in ask.hub.repos.values():
        seen = not repo.private or (ask.user and ask.user.may_read(repo))
        if repo.kind != kind or not seen or repo.owner not in query.get("author", [repo.owner]):
            continue
        words = [word.lower() for word in query.get("search", [])]
        tags = {tag for text in query.get("filter", []) for tag in text.split(",")}
        if all(word in repo.id.lower() for word in words) and tags <= set(repo.hub_tags(repo.head)):
            found.append(repo.info(repo.head))
    found.sort(key=lambda info: info["lastModified"], reverse=True)
    wanted = {"_id", "id", "modelId", "likes", "private", "downloads", "tags", "createdAt"}
    wanted |= {"pipeline_tag", "library_name"}
    wanted |= {"author", "lastModified", "sha", "siblings", "cardData"} if ask.flag("full") else set()
    wanted = {"_id", "id", *query["expand"]} if "expand" in query else wanted
    listed = [{key: value for key, value in info.items() if key in wanted} for info in found]
    return paged(ask, f"/api/{kind}s", listed, min(ask.hub.page, int(query.get("limit", ["1000"])[0])))


@route("GET", rf"{_REPO}(/revision/(?P<revision>[^/]+))?")
def repo_info(ask: Ask, kind: str, repo: str, revision: str | None) -> Reply:
    found = ask.repo(kind, repo)
    info = found.info(found.at(unquote(revision or "main")), blobs=ask.flag("blobs"))
    wanted = {"_id", "id", *ask.query["expand"]} if "expand" in ask.query else info.keys()
    return Reply.json({key: value for key, value in info.items() if key in wanted})


@route("GET", rf"{_REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?")
def tree(ask: Ask, kind: str, repo: str, revision: str, folder: str | None) -> Reply:
    found, folder = ask.repo(kind, repo), unquote(folder or "")
    entries = found.tree(found.at(unquote(revision)), folder, ask.flag("recursive"))
    path = f"/api/{kind}s/{repo}/tree/{revision}" + (f"/{quote(folder, safe='')}" if folder else "")
    return paged(ask, path, entries, ask.hub.page)


@route("POST", rf"{_REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(ask: Ask, kind: str, repo: str, revision: str) -> Reply:
    found = ask.repo(kind, repo)
    commit = found.at(unquote(revision))
    known = {entry["path"]: entry for entry in found.tree(commit, "", True)}
    return Reply.json([known[path] for path in parse_qs(ask.body.decode()).get("paths", []) if path in known])


@route("GET", rf"{_REPO}/refs")
def refs(ask: Ask, kind: str, repo: str) -> Reply:
    found = ask.repo(kind, repo)

    def said(where: str, named: Mapping[str, str]) -> list[dict]:
        return [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": id} for name, id in named.items()]

    return Reply.json({"branches": said("heads", found.branches), "tags": said("tags", found.tags), "converts": []})


@route("GET", rf"{_REPO}/commits/(?P<revision>[^/]+)")
def commits(ask: Ask, kind: str, repo: str, revision: str) -> Reply:
    found = ask.repo(kind, repo)
    made = found.history(found.at(unquote(revision)))
    keys = [{"id": commit.id, "title": commit.message, "message": "", "date": commit.date} for commit in made]
    return Reply.json([{**said, "authors": [{"user": found.owner}]} for said in keys])


@route("POST DELETE", rf"{_REPO}/(?P<what>branch|tag)/(?P<name>[^/]+)")
def reference(ask: Ask, kind: str, repo: str, what: str, name: str) -> Reply:
    found, name, wanted = ask.repo(kind, repo, write=True), unquote(name), ask.json()
    named = found.tags if what == "tag" else found.branches
    if ask.method == "DELETE":
        if named.pop(name, None) is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return Reply()
    start, name = (name, wanted["tag"]) if what == "tag" else (wanted.get("startingPoint", "main"), name)
    if name in named:
        raise HubError(409, "Reference already exists")
    named[name] = found.at(start).id
    return Reply()


@route("POST", rf"{_REPO}/preupload/(?P<revision>[^/]+)")
def preupload(ask: Ask, kind: str, repo: str, revision: str) -> Reply:
    found = ask.repo(kind, repo, write=True)
    known = found.at(unquote(revision)).files
    told = []
    for file in ask.json()["files"]:
        path = file["path"]
        mode = "lfs" if is_lfs(kind, path, file["size"]) else "regular"
        told.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
        told[-1] |= {"oid": known[path].etag} if path in known else {}
    return Reply.json({"files": told})


@route("POST", rf"{_FILES}\.git/info/lfs/objects/batch")
def lfs_batch(ask: Ask, kind: str, repo: str) -> Reply:
    ask.repo(kind, repo, write=True)
    objects, hub = [], ask.hub
    for wanted in ask.json()["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        told = {"oid": oid, "size": size}
        if oid not in hub.blobs:
            upload: dict = {"href": f"{hub.cdn}/upload/{oid}?signature=good"}
            if size > hub.part:
                count = -(-size // hub.part)
                urls = {str(n): f"{hub.cdn}/upload/{oid}/{n}?signature=good" for n in range(1, count + 1)}
                upload = {"href": f"{hub.url}/complete/{oid}", "header": {"chunk_size": str(hub.part), **urls}}
            told["actions"] = {"upload": upload, "verify": {"href": f"{hub.url}/verify/{oid}"}}
        objects.append(told)
    return Reply.json({"transfer": "basic", "objects": objects})


@route("PUT", r"/upload/(?P<oid>[0-9a-f]{64})(/(?P<part>\d+))?")
def upload(ask: Ask, oid: str, part: str | None) -> Reply:
    if ask.query.get("signature") != ["good"] or "Authorization" in ask.headers:
        raise HubError(403, "a signed address, and no token, is what this server takes")
    if part:
        ask.hub.parts.setdefault(oid, {})[int(part)] = ask.body
        return Reply(headers={"ETag": f'"part-{part}"'})
    return _stored(ask.hub, oid, ask.body)


@route("POST", r"/complete/(?P<oid>[0-9a-f]{64})")
def complete(ask: Ask, oid: str) -> Reply:
    wanted, parts = ask.json()["parts"], ask.hub.parts.get(oid, {})
    if [part["partNumber"] for part in wanted] != sorted(parts):
        raise HubError(400, "parts are missing")
    return _stored(ask.hub, oid, b"".join(parts[number] for number in sorted(parts)))


def _stored(hub: Hub, oid: str, content: bytes) -> Reply:
    if File(content, True).sha256 != oid:
        raise HubError(400, "The content does not match its SHA-256")
    hub.blobs[oid] = content
    return Reply(headers={"ETag": f'"{oid}"'})


@route("POST", r"/verify/(?P<oid>[0-9a-f]{64})")
def verify(ask: Ask, oid: str) -> Reply:
    if len(ask.hub.blobs.get(oid, b"")) != ask.json()["size"] or ask.user is None:
        raise HubError(404, "Object does not exist")
    return Reply.json({})


@route("POST", rf"{_REPO}/commit/(?P<branch>[^/]+)")
def commit(ask: Ask, kind: str, repo: str, branch: str) -> Reply:
    found, head = ask.repo(kind, repo, write=True), {}
    added, removed = {}, []
    for line in ask.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            head = value
        elif key == "file":
            added[value["path"]] = File(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in ask.hub.blobs:
                raise HubError(400, "Your push was rejected: an LFS pointer points to a file that does not exist")
            added[value["path"]] = File(ask.hub.blobs[value["oid"]], True)
        elif key in ("deletedFile", "deletedFolder"):
            removed.append(value["path"])
    if large := [path for path, file in added.items() if not file.lfs and is_lfs(kind, path, len(file.content))]:
        if any(added[path].content for path in large):
            raise HubError(400, f"Your push was rejected: {large[0]} must be uploaded with LFS")
    made = found.commit(added, removed, head.get("summary", ""), unquote(branch), head.get("parentCommit"))
    prefix = "" if kind == "model" else f"{kind}s/"
    url = f"{ask.hub.url}/{prefix}{repo}/commit/{made.id}"
    return Reply.json({"success": True, "commitOid": made.id, "commitUrl": url, "hookOutput": ""})


@route("HEAD GET", rf"{_FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(ask: Ask, kind: str, repo: str, revision: str, path: str) -> Reply:
    found, path = ask.repo(kind, repo), unquote(path)
    at = found.at(unquote(revision))
    headers = {"X-Repo-Commit": at.id}
    if path not in at.files:
        error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return Reply(b"Entry not found", 404, {**headers, **error})
    file = at.files[path]
    if not file.lfs:
        return _ranged(ask, file.content, {**headers, "ETag": f'"{file.etag}"'})
    said = found.entry(at, path)["lfs"]
    headers |= {"X-Linked-Etag": f'"{said["oid"]}"', "X-Linked-Size": str(said["size"]), "ETag": f'"{file.oid}"'}
    where = f"{ask.hub.cdn}/cdn/{found.kind}s/{repo}/{file.sha256}/{quote(path)}?signature=good"
    return Reply(b"", 302, {**headers, "Location": where})


@route("HEAD GET", r"/cdn/.+?/(?P<oid>[0-9a-f]{64})/.+")
def cdn(ask: Ask, oid: str) -> Reply:
    if ask.query.get("signature") != ["good"] or "Authorization" in ask.headers:
        raise HubError(403, "a signed address, and no token, is what this server takes")
    return _ranged(ask, ask.hub.blobs[oid], {"ETag": f'"{oid}"'})


def _ranged(ask: Ask, content: bytes, headers: dict[str, str]) -> Reply:
    headers = {**headers, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", ask.headers.get("Range", ""))
    if not wanted or not any(wanted.groups()):
        return Reply(content, 200, headers)
    size, (first, last) = len(content), wanted.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        return Reply(b"", 416, {**headers, "Content-Range": f"bytes */{size}"})
    return Reply(content[start:end], 206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"})


@route("HEAD GET", r"/")
def home(ask: Ask) -> Reply:
    return Reply(b"a hub")


def answer(ask: Ask, path: str) -> Reply:
    """The answer to a request. Raises HubError."""
    for method, pattern, made in _ROUTES:
        if method == ask.method and (found := pattern.fullmatch(path)):
            return made(ask, **found.groupdict())
    raise HubError(404, f"no such address: {path}")
