"""A model on disk: find it by hub id, folder or .gguf file, then fetch its weights.

There are two phases, because the tokenizers of a pair are compared before weights are downloaded. `find` gets the
small files, `fetch_weights` the weights.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specgen.checkpoint.config import check_config
from specgen.checkpoint.gguf.format import check_format
from specgen.checkpoint.weights import verify
from specgen.core.errors import BadFile, ModelNotFound, UnsupportedModel
from specgen.core.files import canonical_path, read_object
from specgen.core.progress import Reporting
from specgen.core.types import BUNDLED, ModelRef
from specgen.hub.files import CONFIG, DAMAGED, check_loadable, check_parts, is_gguf_name, weight_names

if TYPE_CHECKING:
    from specgen.hub.snapshot import Snapshot

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk. `path` is a folder in the hub's format, or a .gguf file.

    After `find` its small files are present, after `fetch_weights` its weights too. `commit` is the hub's full commit
    hash, None for local files.
    """

    ref: ModelRef
    path: Path
    commit: str | None = None

    @property
    def is_gguf(self) -> bool:
        return self.ref.file is not None or self.path.is_file()

    @property
    def header(self) -> Path:
        """The .gguf file; before `fetch_weights` a sparse file with the same header."""
        if self.commit is None or self.path.is_file():
            return self.path
        from specgen.hub.snapshot import Snapshot  # noqa: PLC0415  0.3 s, not for local files

        return Snapshot(self.ref, self.commit).header

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json, {} for GGUF (see gguf/config.py). Raises BadFile."""
        return {} if self.is_gguf else _read_config(self.path / CONFIG)

    @property
    def generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json, {} without one. Raises BadFile."""
        if self.is_gguf:
            return {}
        return _read_config(self.path / "generation_config.json", missing_ok=True)

    @property
    def weight_files(self) -> list[Path]:
        """The weight files. Some may be missing before `fetch_weights`. Raises BadFile."""
        if self.is_gguf:
            return [self.path]
        return [self.path / name for name in weight_names(self.path, _names(self.path))]

    @property
    def is_complete(self) -> bool:
        """Whether all weight files are on disk."""
        return all(path.is_file() for path in self.weight_files)

    @property
    def weight_bytes(self) -> int:
        """The size of the weight files in bytes. Before the download it is the size on the hub, 0 if unknown."""
        sizes = {path: path.stat().st_size for path in self.weight_files if path.is_file()}
        if self.commit is not None and len(sizes) < len(self.weight_files):
            from specgen.hub.snapshot import Snapshot  # noqa: PLC0415 - as above

            snapshot = Snapshot(self.ref, self.commit)
            listing = snapshot.listing() or {}
            return sum(listing.get(name, 0) for name in snapshot.weights())
        return sum(sizes.values())


def find(ref: ModelRef, *, offline: bool, trust_remote_code: bool = False) -> Reporting[Checkpoint]:
    """Find the model `ref` and get its small files: config, tokenizer, chat template, index of the weights.

    An existing path wins over a hub id; its checkpoint is named by the absolute path. `trust_remote_code` adds the
    repository's *.py files. Raises ModelNotFound, AccessDenied, NotCached, DownloadFailed, UnsupportedModel, BadFile.
    """
    if (bundled := _bundled(ref)) is not None:
        if not bundled.is_dir():
            raise ModelNotFound(f"no model {ref.source} comes with specgen", hint="see `specgen pairs`")
        return _local(ref, bundled)
    if (path := canonical_path(str(ref))) is not None:
        return _local(ModelRef(str(path)), path)
    if _looks_like_path(ref.source):
        kind = "file" if is_gguf_name(ref.source) else "folder"
        raise ModelNotFound(f"there is no {kind} {ref.source}", hint="check the path")
    if not _HUB_ID.fullmatch(ref.source) or ".." in ref.source or "--" in ref.source:
        raise ModelNotFound(
            f"'{ref.source}' is neither an existing path nor a hub id",
            hint="give a folder, a .gguf file, org/name, or org/name:file.gguf",
        )
    from specgen.hub import find as hub  # noqa: PLC0415  0.3 s, not for local files

    path, commit = yield from hub.find(
        ref, offline=offline, trust_remote_code=trust_remote_code, fetch_header=_fetch_header
    )
    found = Checkpoint(ref, path, commit)
    if ref.file is not None:
        check_gguf(found.header)
    _refuse_pickle(found)
    return found


def _refuse_pickle(checkpoint: Checkpoint) -> None:
    from specgen.checkpoint.drafter_format import refuse_pickle  # noqa: PLC0415  it imports this file

    refuse_pickle(checkpoint)


def _fetch_header(snapshot: "Snapshot") -> Reporting[None]:
    from specgen.checkpoint.gguf.remote import fetch_header  # noqa: PLC0415  0.3 s, only for GGUF

    yield from fetch_header(snapshot)


def fetch_weights(checkpoint: Checkpoint, *, offline: bool) -> Reporting[Checkpoint]:
    """Download and verify the weights. Returns the same checkpoint. Raises as `find`."""
    yield from fetch_all([checkpoint], offline=offline)
    return checkpoint


def fetch_all(checkpoints: Sequence[Checkpoint], *, offline: bool) -> Reporting[None]:
    """Download and verify the weights of several models as one download. Raises as `find`."""
    of_hub = [(each.ref, each.commit) for each in checkpoints if each.commit is not None]
    if of_hub:
        from specgen.hub import find as hub  # noqa: PLC0415  0.3 s, not for local files

        snapshots = yield from hub.fetch_weights(of_hub, offline=offline)
        if any(snapshot.ref.file for snapshot in snapshots):
            from specgen.checkpoint.gguf.remote import drop_headers  # noqa: PLC0415  0.3 s, only for GGUF

            drop_headers(snapshots)
        hub.pin_models(snapshots)
    for checkpoint in checkpoints:
        if not checkpoint.is_gguf:
            verify(checkpoint.weight_files)


def bundled_size(ref: ModelRef) -> int | None:
    """The size in bytes of a bundled model, None for any other."""
    folder = _bundled(ref)
    return None if folder is None else sum(path.stat().st_size for path in folder.glob("*"))


def _bundled(ref: ModelRef) -> Path | None:
    if not ref.source.startswith(BUNDLED):
        return None
    return Path(__file__).parent / "bundled" / ref.source.removeprefix(BUNDLED)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _read_config(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    config = read_object(path, hint=DAMAGED, missing_ok=missing_ok)
    check_config(config, path)
    return config


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or "\\" in text or is_gguf_name(text) or text.count("/") > 1


def _local(ref: ModelRef, path: Path) -> Checkpoint:
    if path.is_file():
        check_gguf(path)
        return Checkpoint(ref, path)
    if not path.is_dir():
        raise BadFile(f"{path} is neither a folder nor a regular file", hint="give the model's folder, or a .gguf file")
    try:
        check_loadable(str(path), _names(path))
        missing = next((file for file in Checkpoint(ref, path).weight_files if not file.is_file()), None)
    except PermissionError as error:
        raise BadFile(f"cannot read {path}: permission denied", hint="check the folder's permissions") from error
    if missing is not None:
        raise ModelNotFound(f"{path} is incomplete: {missing.name} is missing", hint="copy the whole folder again")
    found = Checkpoint(ref, path)
    _refuse_pickle(found)
    return found


def check_gguf(path: Path) -> None:
    """Raise BadFile or UnsupportedModel unless `path` is a whole model in a readable GGUF format."""
    check_parts(path.name)
    check_format(path)
    from specgen.checkpoint.gguf.header import check_model  # noqa: PLC0415  0.3 s, only for GGUF

    check_model(path)


# MLX writes these keys, without a quant_method.
_MLX_KEYS = {"bits", "group_size"}
# quant_method of config.json -> its name and the packages that transformers needs.
_NEEDS = {
    "gptq": ("GPTQ", ("gptqmodel", "optimum")),
    "awq": ("AWQ", ("gptqmodel",)),
    "bitsandbytes": ("bitsandbytes", ("bitsandbytes",)),
    "torchao": ("torchao", ("torchao",)),
    "compressed-tensors": ("compressed-tensors", ("compressed_tensors",)),
}


def quant_method(checkpoint: Checkpoint) -> str | None:
    """The quantization method in config.json; None for unquantized weights and GGUF. Raises BadFile."""
    config = checkpoint.config
    described = config.get("quantization_config")
    for each in (described, config.get("quantization")):
        if isinstance(each, dict) and "quant_method" not in each and each.keys() >= _MLX_KEYS:
            return "mlx"
    if not isinstance(described, dict):
        return None
    return str(described.get("quant_method") or "bitsandbytes")  # early bitsandbytes configs have no quant_method


def check_backend(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedModel if the quantization needs a missing package. Call it before the download of weights.

    Raises BadFile.
    """
    method = quant_method(checkpoint)
    if method == "mlx":
        raise UnsupportedModel(
            f"{checkpoint.ref} is quantized for MLX, which only runs on Apple's GPUs",
            hint="choose the original model, or a .gguf file of it",
        )
    if method not in _NEEDS:
        return
    name, packages = _NEEDS[method]
    missing = [package.replace("_", "-") for package in packages if find_spec(package) is None]
    if missing:
        raise UnsupportedModel(
            f"{checkpoint.ref} is quantized with {name}, which needs {' and '.join(missing)}",
            hint=f"`pip install {' '.join(missing)}`, or choose the model itself (--quant int8) or a .gguf file of it",
        )
