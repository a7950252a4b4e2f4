"""NVFlare: a filter that perturbs the updates or weights that a client sends, and stops what it does not know."""

import copy
import inspect
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import ContentBlockedException, FilterChainType, FilterContextKey
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import SERVER_SITE_NAME
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from torch import nn

from .._tip.weights import check_finite
from ..budget import PrivacyBudget
from ..defense import TIP

Tensors = dict[str, torch.Tensor]

_PERTURBED = [DataKind.WEIGHT_DIFF, DataKind.WEIGHTS]
_HELD = {*_PERTURBED, DataKind.FL_MODEL, DataKind.COLLECTION}  # kinds of data that may have weights in them
_ENTRIES = frozenset(DXO(DataKind.WEIGHTS, {}).to_shareable())  # of a Shareable that is a DXO and nothing else
_SETTINGS = [name for name in inspect.signature(TIP).parameters if name not in ("model", "masks", "rng", "budget")]

# Properties of the context of a task, which NVFlare makes anew for each and never sends.
_RECEIVED = "tip_kernels.received"
_DONE = "tip_kernels.done"

_scores: list[Tensors] = []  # given by the training, for the next result; one process has one client


def set_scores(scores: Mapping[str, torch.Tensor]) -> None:
    """Gives the filter of this process the scores for the next result; call it before ``flare.send``.

    For training code that runs in the client's process (not with ``launch_external_process=True``). The filter gives
    them to :meth:`tip_kernels.TIP.set_scores`; they never leave the client. Later ones replace earlier ones.

    Args:
        scores: float32 ``[C_out]`` by the names of conv kernels, as :meth:`tip_kernels.TIP.scores` gives them.
    """
    _scores[:] = [{name: score.detach().cpu().clone() for name, score in scores.items()}]


class TIPFilter(DXOFilter):
    """Perturbs a client's results of kind WEIGHT_DIFF, or of kind WEIGHTS, before they are sent.

    Add one to the results of a client's tasks, and the same to the data of these tasks, where it keeps a copy of the
    weights that come: results of kind WEIGHTS are perturbed by what they differ from those
    (:meth:`tip_kernels.TIP.perturb_weights`), and probe images are measured with them. Values may be NumPy arrays or
    tensors, and keep their dtypes. What the training sent is not changed, only what leaves.

    **It fails closed.** A result of another kind, without a DXO or with more than one, with names, shapes or dtypes
    that do not fit the model, with numbers that are not finite, with arrays among its metadata, or of kind WEIGHTS
    without received ones is not sent: the reason is logged, and NVFlare sends the server the return code
    ``TASK_RESULT_FILTER_ERROR`` instead. So are weights that any other task of this job would send past the filter.
    Results that are errors are sent as a return code only.

    Metadata goes out as it is, such as metrics, the number of steps and integer buffers, and so does what takes other
    ways than the results of tasks, such as ``flare.log``.

    Args:
        model: class or function that makes the model, as "package.module.Name". NVFlare builds it, so that it must be
            among the classes that the site allows. Its weights do not matter.
        model_args: keyword arguments for it.
        settings: keyword arguments for :class:`tip_kernels.TIP` in plain JSON, without masks.
        probe: file of public images, made by ``numpy.savez(file, images=..., labels=...)``, for
            :meth:`tip_kernels.TIP.measure` in each round, with the weights that were received.
        epsilon, delta: privacy budget of the site, which ``tip_kernels.budget.PrivacyBudget`` counts. A result that
            would exceed it is not sent.
        budget_file: name of the budget's file in the root of the site's workspace, which outlasts a job.
        report_epsilon: whether the server is told epsilon so far, as "tip_epsilon" in the metadata of a result. It is
            logged in any case.

    Raises:
        TypeError, ValueError: an argument of another type, a setting that TIP does not have, or half a budget.
    """

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        probe: str | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
        budget_file: str = "tip_budget.json",
        report_epsilon: bool = False,
    ) -> None:
        super().__init__(supported_data_kinds=list(_PERTURBED), data_kinds_to_filter=list(_PERTURBED))
        if not isinstance(model, str) or "." not in model:
            raise TypeError(f"expected model to be 'package.module.Name', got {model!r}")
        for name in settings or {}:
            if name not in _SETTINGS:
                raise ValueError(f"expected settings among {_SETTINGS}, got {name!r}")
        if (epsilon is None) != (delta is None) or (report_epsilon and epsilon is None):
            raise ValueError(f"expected both epsilon and delta of a budget, got {epsilon} and {delta}")
        if pathlib.PurePath(budget_file).name != budget_file:
            raise ValueError(f"expected budget_file to be a name without folders, got {budget_file!r}")
        # NVFlare writes a job's configuration from attributes with the names of the arguments.
        self.model = model
        self.model_args = model_args
        self.settings = settings
        self.probe = probe
        self.epsilon = epsilon
        self.delta = delta
        self.budget_file = budget_file
        self.report_epsilon = report_epsilon
        self._defense: TIP | None = None
        self._budget: Any = None

    def add_to_fed_job(self, job: Any, ctx: Any, **kwargs: Any) -> None:
        """Called when a recipe or a job takes the filter; the job then carries neither tip_kernels nor torch along.

        Raises:
            ValueError: no tasks by name, since NVFlare looks filters up by exact names and would run without this one,
                or it is added to the server, which has everything unprotected already.
        """
        tasks = kwargs.get("tasks")
        if not tasks or any("*" in task for task in tasks):
            raise ValueError(
                f"expected the names of tasks, as in tasks=['train'], got {tasks!r}: NVFlare knows no patterns"
            )
        if ctx.target == SERVER_SITE_NAME:
            raise ValueError("expected a TIPFilter on clients, got one on the server, where noise comes too late")
        package = __name__.partition(".")[0]
        if package not in job.job.app_packages:
            job.set_app_packages([*job.job.app_packages, package])
        super().add_to_fed_job(job, ctx, **kwargs)

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Keeps what comes, or perturbs what goes.

        Raises:
            ContentBlockedException: nothing may be sent; ``shareable`` is empty then.
        """
        try:
            way = self.get_prop(FilterContextKey.CHAIN_TYPE), fl_ctx.get_prop(FLContextKey.FILTER_DIRECTION)
            if way == (FilterChainType.TASK_DATA_CHAIN, FilterKey.IN):
                _keep(shareable, fl_ctx)
                return shareable
            if way != (FilterChainType.TASK_RESULT_CHAIN, FilterKey.OUT):
                raise ValueError(f"expected a client's incoming task data or outgoing results, got {way}")
            return self._protect(shareable, fl_ctx)
        except Exception as error:
            reason = f"TIP sends nothing of this task: {type(error).__name__}: {error}"
            self.log_error(fl_ctx, reason, fire_event=False)  # which could tell the server
            if isinstance(shareable, Shareable):
                shareable.clear()  # others may hold it
            raise ContentBlockedException(reason) from error

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        """Perturbs a copy of the values; raises what ``process`` turns into a refusal."""
        if self._defense is None:
            self._defense = self._build(fl_ctx)
        received = _kept(fl_ctx)
        tensors = {name: _copied(name, value) for name, value in dxo.data.items()}
        check_finite(tensors)
        self._score(self._defense, received)
        if dxo.data_kind == DataKind.WEIGHTS:
            if received is None:
                raise RuntimeError(_NOTHING_RECEIVED)
            # A filter before this one may have taken some out, which are not sent then.
            base = {name: received[name] for name in tensors if name in received}
            self._defense.perturb_weights(tensors, base)
        else:
            self._defense.perturb_update(tensors)
        check_finite(tensors, when=" after the noise")
        dxo.data = {name: _as_given(tensor, dxo.data[name]) for name, tensor in tensors.items()}
        self.log_info(fl_ctx, f"TIP has perturbed {len(tensors)} tensors of kind {DataKind(dxo.data_kind).value}")
        self._tell_epsilon(dxo, fl_ctx)
        return dxo

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Empties a result with weights that no TIPFilter has perturbed, such as a task's that none was added to."""
        if event_type != EventType.AFTER_TASK_RESULT_FILTER or fl_ctx.get_prop(_DONE) == _task(fl_ctx):
            return
        result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        if not isinstance(result, Shareable) or not _may_hold_weights(result):
            return
        name = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        reason = f"TIP sends nothing of task {name!r}, whose weights it was not given: add the filter to this task"
        self.log_error(fl_ctx, reason, fire_event=False)
        result.clear()
        result.set_return_code(ReturnCode.TASK_RESULT_FILTER_ERROR)

    def _protect(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        code = shareable.get_return_code()
        if code != ReturnCode.OK:
            return make_reply(code)
        dxo = _the_dxo(shareable)
        dxo = self._apply_filter(dxo, shareable, fl_ctx)  # process_dxo, with NVFlare's history and audit
        fl_ctx.set_prop(_DONE, _task(fl_ctx), private=True, sticky=False)
        return dxo.update_shareable(shareable)

    def _build(self, fl_ctx: FLContext) -> TIP:
        engine = fl_ctx.get_engine()
        model = engine.build_component({"path": self.model, "args": copy.deepcopy(self.model_args or {})})
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected {self.model} to make a torch.nn.Module, got {type(model).__name__}")
        settings = dict(self.settings or {})
        if self.epsilon is not None and self.delta is not None:
            path = pathlib.Path(engine.get_workspace().get_root_dir()) / self.budget_file
            self._budget = settings["budget"] = PrivacyBudget(self.epsilon, self.delta, path=path)
        return TIP(model, **settings)

    def _score(self, defense: TIP, received: Tensors | None) -> None:
        """Hands over the scores of the training, or measures the probe images."""
        scores = _scores.pop() if _scores else None
        if self.probe is None:
            if scores is not None:
                defense.set_scores(scores)
            return
        if scores is not None:
            raise RuntimeError("expected probe images or set_scores(), got both")
        if received is None:
            raise RuntimeError(_NOTHING_RECEIVED)
        defense.model.load_state_dict(received)
        with np.load(self.probe, allow_pickle=False) as file:
            images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
        defense.reset()  # of a result that was refused
        defense.measure(images, labels)

    def _tell_epsilon(self, dxo: DXO, fl_ctx: FLContext) -> None:
        if self._budget is None:
            return
        spent, messages = self._budget.spent(), self._budget.messages
        self.log_info(fl_ctx, f"TIP: epsilon {spent:.4g} of {self.epsilon:g} spent by {messages} messages")
        if self.report_epsilon:
            dxo.set_meta_prop("tip_epsilon", spent)


_NOTHING_RECEIVED = (
    "expected the weights that the server sent with this task, got none: add this filter to the data of the task as "
    "well (add_client_input_filter, or task_data_filters)"
)


def _task(fl_ctx: FLContext) -> str:
    return str(fl_ctx.get_prop(FLContextKey.TASK_ID))


def _keep(shareable: Shareable, fl_ctx: FLContext) -> None:
    """Keeps copies of the weights of a task, which the training may change in place, until its result goes."""
    if _kind(shareable) == DataKind.WEIGHTS:
        weights = {name: _copied(name, value) for name, value in from_shareable(shareable).data.items()}
        fl_ctx.set_prop(_RECEIVED, (_task(fl_ctx), weights), private=True, sticky=False)


def _kept(fl_ctx: FLContext) -> Tensors | None:
    task, weights = fl_ctx.get_prop(_RECEIVED) or (None, None)
    return weights if task == _task(fl_ctx) else None


def _kind(shareable: Shareable) -> str | None:
    """The kind of data of a DXO; None if there is no DXO."""
    if shareable.get_header(ReservedHeaderKey.CONTENT_TYPE) != "DXO":
        return None
    kind: str = from_shareable(shareable).data_kind
    return kind


def _may_hold_weights(result: Shareable) -> bool:
    try:
        return _kind(result) in _HELD
    except Exception:  # whatever it is
        return True


def _the_dxo(shareable: Shareable) -> DXO:
    """The one DXO of a result; raises TypeError or ValueError if there is anything else that could tell of data."""
    dxo = from_shareable(shareable)
    for entry in shareable.keys() - _ENTRIES:
        raise ValueError(f"expected a result with one DXO and nothing else, got {entry!r} as well")
    if dxo.data_kind not in _PERTURBED:
        raise ValueError(f"expected data of kind WEIGHT_DIFF or WEIGHTS, got {dxo.data_kind}")
    if not dxo.data:
        raise ValueError("expected data by the names of the model's parameters, got none")
    _check_plain(dxo.meta, "meta")
    headers = shareable[ReservedHeaderKey.HEADERS]
    _check_plain({key: value for key, value in headers.items() if not str(key).startswith("__")}, "headers")
    return dxo


def _check_plain(value: Any, where: str) -> None:
    """Raises TypeError for what could be more parameters, such as the control variates of SCAFFOLD."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(inner, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for inner in value:
            _check_plain(inner, where)
    elif value is not None and not isinstance(value, (str, bool, int, float, np.generic)):
        got = type(value).__name__
        raise TypeError(f"expected {where} to be of plain values, got {got}, which would be sent exactly")


def _copied(name: str, value: Any) -> torch.Tensor:
    """A tensor of the same dtype that shares no memory with what the training has."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"expected {name!r} to be a NumPy array or a tensor, got {type(value).__name__}")
    try:
        return torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected {name!r} to be of a dtype that torch has, got {value.dtype}") from error


def _as_given(tensor: torch.Tensor, value: Any) -> Any:
    """What ``value`` was: a tensor, an array or a NumPy scalar."""
    if isinstance(value, torch.Tensor):
        return tensor
    array = tensor.numpy()
    return array[()] if isinstance(value, np.generic) else array
