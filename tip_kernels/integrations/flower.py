"""TIP in a Flower client: a mod for ``ClientApp``, and what carries scores and bfloat16 weights to it.

Tried with flwr 1.42 (message API, and legacy clients behind its SecAgg+).
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode
from torch import nn

from .. import TIP, PrivacyBudget

STATE = "tip_kernels"
"""The record of ``context.state`` with the step and the budget."""
SCORES = "tip_kernels.scores"
"""The record of ``context.state`` with the scores for the next reply."""
EPSILON = "tip-epsilon"
"""The metric in which ``report_epsilon`` sends the epsilon spent."""

_SAVED = "tip"
_BFLOAT16 = "bfloat16"
logger = logging.getLogger("flwr")  # Flower's own: its processes show these lines

Probe = tuple[torch.Tensor, torch.Tensor]


class TIPMod:
    """Perturbs what a Flower client sends of its weights: for ``ClientApp(mods=[...])`` or ``@app.train(mods=[...])``.

    The weights of a reply to a train message become those of its request plus the perturbed difference, by
    :meth:`tip_kernels.TIP.perturb_weights`. Request and reply have one ``ArrayRecord`` each, with the same keys and
    shapes: names of the model's parameters and buffers, or ``"0"``, ``"1"``, ... in the order of its ``state_dict``.
    Each array keeps the dtype that the app gave it. Metrics and configs pass as they are.

    Whatever is not so, and any error under way, becomes an error reply, so that no weights are sent without their
    noise. So does a reply to any other message (evaluate, query) that has arrays, the request of a legacy server for
    initial parameters among them: give the server's strategy initial parameters of its own.

    Flower may start a process for each message, so the key is new for each; the step and the budget spent are in
    ``context.state``, which stays on the client. Flower stores it after the reply, in the memory of the SuperNode and
    for one run: a budget that outlasts a crash, a restart and other runs needs a ``path``.

    Mods that change weights or hide them (secure aggregation) come before this one in the list. What an app sends in
    metrics or configs is not looked at.

    Args:
        make_model: builds a model with the layers of the one that is trained, on the CPU; called at once, to check the
            settings, and for each train reply. For a model that depends on the run's config, see docs/frameworks.md.
        probe: public images and labels, or a function that returns them, for :meth:`tip_kernels.TIP.measure` on the
            weights that came with each request. Scores are then ``"public"``. Without it, scores come from
            :func:`keep_scores`; all channels are selected where there are none.
        budget: what the messages may spend, or a function that returns it for a context. It needs clipping, a floor
            and public scores.
        report_epsilon: whether replies tell the epsilon spent, as the metric ``"tip-epsilon"`` in their one
            ``MetricRecord``. It always goes to the log.
        settings: of :class:`tip_kernels.TIP`, but no ``rng``.

    Raises:
        TypeError, ValueError: a setting that TIP refuses, an ``rng``, ``scores="public"`` without ``probe`` (unless
            all or no channels are selected), other scores with one, or ``report_epsilon`` without a budget.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        *,
        probe: Probe | Callable[[], Probe] | None = None,
        budget: PrivacyBudget | Callable[[Context], PrivacyBudget] | None = None,
        report_epsilon: bool = False,
        **settings: Any,
    ) -> None:
        if "rng" in settings:
            raise TypeError("expected no rng: each message takes a new key, since each may have a process of its own")
        if report_epsilon and budget is None:
            raise ValueError("expected a budget with report_epsilon=True, got none: nothing counts the messages")
        if probe is not None and settings.setdefault("scores", "public") != "public":
            raise ValueError(f"expected scores='public' with a probe, got {settings['scores']!r}")
        self._make_model = make_model
        self._probe = probe
        self._budget = budget
        self._reports_epsilon = report_epsilon
        self._settings = settings
        self._check_settings()

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Has the next mod or the app answer, and perturbs the answer."""
        if message.metadata.message_type.split(".")[0] != MessageType.TRAIN:
            return _without_arrays(message, call_next(message, context))
        try:
            received = _copy(_only_arrays(message.content, "the request")[1])  # an app may empty the record it reads
        except Exception as error:
            return _error_reply(message, error)
        before = context.state.get(STATE)
        reply = call_next(message, context)
        try:
            if reply.has_error():
                return reply
            if context.state.get(STATE) is not before:
                raise RefusalError("expected one TIPMod for each message, got two: list it for the app or a function")
            reply.content = self._protected(reply.content, received, context)
            return reply
        except Exception as error:
            return _error_reply(message, error)

    def _check_settings(self) -> None:
        """Raises at once what would otherwise turn every reply into an error."""
        with TIP(_built(self._make_model), **self._settings) as defense:
            if self._budget is not None:
                defense.noise_multiplier()
        is_public = self._settings.get("scores") == "public"
        if is_public and self._probe is None and self._settings.get("ratio") not in (0, 1):
            raise ValueError("expected a probe with scores='public', got none")

    def _protected(self, content: RecordDict, received: ArrayRecord, context: Context) -> RecordDict:
        """The content of a reply with perturbed weights; ``content`` is left as it is."""
        name, record = _only_arrays(content, "the reply")
        _check_same(record, received)
        metrics = _metrics_for_epsilon(content) if self._reports_epsilon else None
        budget = self._budget(context) if callable(self._budget) else self._budget
        model = _built(self._make_model)
        names = _names(record, model)
        weights = {names[key]: _tensor(array) for key, array in record.items()}
        base = {names[key]: _tensor(array) for key, array in received.items()}
        settings = self._settings if budget is None else {**self._settings, "budget": budget}
        with TIP(model, **settings) as defense:
            self._give_scores(defense, base, context)
            _perturb(defense, weights, base, context)
        protected = RecordDict(dict(content.items()))
        protected[name] = ArrayRecord({key: _array(weights[names[key]], array) for key, array in record.items()})
        if budget is not None:
            spent = budget.spent()
            logger.info("TIPMod: epsilon %.4g spent by %d messages", spent, budget.messages)
            if metrics is not None:
                protected[metrics] = MetricRecord({**protected.metric_records.get(metrics, {}), EPSILON: spent})
        return protected

    def _give_scores(self, defense: TIP, received: Mapping[str, torch.Tensor], context: Context) -> None:
        kept = context.state.pop(SCORES, None)
        if self._settings.get("scores") == "public":
            if kept is not None:
                raise RefusalError("expected no scores from the app with scores='public', got some by keep_scores()")
            if self._probe is not None:
                _load(defense.model, received)
                defense.measure(*(self._probe() if callable(self._probe) else self._probe))
        elif isinstance(kept, ArrayRecord):
            with _refusals_of_tip():
                defense.set_scores(kept.to_torch_state_dict())
        elif kept is not None:
            raise RefusalError(f"expected scores by keep_scores(), got a {type(kept).__name__}")


class RefusalError(ValueError):
    """Why a reply is not sent, in words that say nothing of its numbers: the server may read them."""


def keep_scores(context: Context, scores: Mapping[str, torch.Tensor]) -> None:
    """Hands the scores of an app's training to :class:`TIPMod`, through ``context.state``, for the reply under way.

    Args:
        context: of the app's train function. Its state stays on the client.
        scores: what :meth:`tip_kernels.TIP.scores` gave: float32 ``[C_out]`` by the names of conv kernels.
    """
    context.state[SCORES] = ArrayRecord({name: Array(score.detach().cpu().numpy()) for name, score in scores.items()})


def to_record(tensors: Mapping[str, torch.Tensor], *, keep_bfloat16: bool = False) -> ArrayRecord:
    """An ``ArrayRecord`` of any tensors; Flower's own constructor refuses bfloat16, which NumPy does not have.

    Args:
        tensors: of any shapes, such as a ``state_dict``.
        keep_bfloat16: whether bfloat16 goes as its 2 bytes a number, under the dtype ``"bfloat16"``, and not as
            float32, which holds the same numbers. Flower's strategies cannot average it then: it is for a server with
            one that reads it by :func:`to_tensors`.
    """
    return ArrayRecord({name: _new_array(tensor.detach().cpu(), keep_bfloat16) for name, tensor in tensors.items()})


def to_tensors(record: ArrayRecord) -> dict[str, torch.Tensor]:
    """The tensors of an ``ArrayRecord``, bfloat16 among them.

    Raises:
        TypeError, ValueError: an array that is not serialized by NumPy, or has a dtype that torch does not have.
    """
    return {name: _tensor(array) for name, array in record.items()}


def _perturb(
    defense: TIP, weights: dict[str, torch.Tensor], received: dict[str, torch.Tensor], context: Context
) -> None:
    """Perturbs ``weights`` in place and counts it in the context, which a failure under way must not undo."""
    saved = context.state.config_records.get(STATE)
    with _refusals_of_tip():
        if saved is not None:
            defense.load_state_dict(json.loads(str(saved[_SAVED])))
        try:
            defense.perturb_weights(weights, received)
        finally:
            context.state[STATE] = ConfigRecord({_SAVED: json.dumps(defense.state_dict())})


@contextlib.contextmanager
def _refusals_of_tip() -> Iterator[None]:
    """TIP's errors tell names, shapes and settings; those of a user's code could tell anything."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise RefusalError(str(error)) from error


def _load(model: nn.Module, received: Mapping[str, torch.Tensor]) -> None:
    """Makes the model the one that the server sent; without buffers, if it sent none."""
    for name, _ in model.named_parameters():
        if name not in received:
            raise RefusalError(f"expected all of the model's parameters in the request, for the probe, got no {name!r}")
    model.load_state_dict(received, strict=False)


def _without_arrays(message: Message, reply: Message) -> Message:
    """The reply to a message that is not for training, or an error reply if it has arrays."""
    if reply.has_error() or not any(reply.content.array_records.values()):
        return reply
    kind = message.metadata.message_type
    return _error_reply(
        message, RefusalError(f"expected no arrays in the reply to a message of type {kind!r}, got some")
    )


def _error_reply(message: Message, error: Exception) -> Message:
    """Flower's reply for a mod that cannot do its work. What an unexpected error says stays in the client's log."""
    said = str(error) if isinstance(error, RefusalError) else f"{type(error).__name__}, see the log of the client"
    reason = f"TIPMod sends no weights: {said}"
    logger.error(reason, exc_info=None if isinstance(error, RefusalError) else error)
    return Message(Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=reason), reply_to=message)


def _only_arrays(content: RecordDict, whose: str) -> tuple[str, ArrayRecord]:
    records = content.array_records
    if len(records) != 1:
        raise RefusalError(f"expected one ArrayRecord in {whose}, got {len(records)}")
    ((name, record),) = records.items()
    return name, record


def _copy(record: ArrayRecord) -> ArrayRecord:
    """Another record of other arrays, of the same bytes, which nobody can change."""
    return ArrayRecord(dict(record.items()))


def _check_same(record: ArrayRecord, received: ArrayRecord) -> None:
    """Raises RefusalError unless the keys are the same; the shapes are TIP's to compare with the model's."""
    for key in sorted(record.keys() ^ received.keys()):
        where = "the reply and not in the request" if key in record else "the request and not in the reply"
        raise RefusalError(f"expected request and reply to have the same arrays, got {key!r} in {where}")


def _metrics_for_epsilon(content: RecordDict) -> str:
    """The name of the only ``MetricRecord``, or of a new one: Flower's strategies take exactly one."""
    names: list[str] = list(content.metric_records) or ["metrics"]
    if len(names) != 1 or (names[0] in content and names[0] not in content.metric_records):
        raise RefusalError(f"expected at most one MetricRecord in the reply with report_epsilon=True, got {len(names)}")
    return names[0]


def _names(record: ArrayRecord, model: nn.Module) -> dict[str, str]:
    """The model's names by the keys of a record, which are these or, of a list of arrays, numbers."""
    names = list(model.state_dict())
    if list(record) == [str(number) for number in range(len(names))] and not set(record) <= set(names):
        return dict(zip(record, names, strict=True))
    return {key: key for key in record}


def _tensor(array: Array) -> torch.Tensor:
    values = array.numpy()
    if array.dtype == _BFLOAT16 and values.dtype.itemsize == 2:  # as NumPy saves what it does not know: two bytes each
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def _array(tensor: torch.Tensor, like: Array) -> Array:
    """A tensor in the form of the array that it came from."""
    if tensor.dtype is torch.bfloat16:
        values = tensor.view(torch.int16).numpy().view(like.numpy().dtype)
    else:
        values = tensor.numpy()
    data = Array.from_numpy_ndarray(values).data
    return Array(dtype=like.dtype, shape=tuple(like.shape), stype=like.stype, data=data)


def _new_array(tensor: torch.Tensor, keep_bfloat16: bool) -> Array:
    if tensor.dtype is not torch.bfloat16:
        return Array(tensor.numpy())
    if not keep_bfloat16:
        return Array(tensor.float().numpy())
    data = Array.from_numpy_ndarray(tensor.contiguous().view(torch.int16).numpy().view("V2")).data
    return Array(dtype=_BFLOAT16, shape=tuple(tensor.shape), stype="numpy.ndarray", data=data)


def _built(make_model: Callable[[], nn.Module]) -> nn.Module:
    """A model of the user's, built without touching the random numbers of the training."""
    with torch.random.fork_rng(devices=[]):
        return make_model()
