"""The pool's engines share the work; whatever dies, every request is answered exactly once by the right policy."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import assert_same_completions

from gainrl_ray.actors.buckets import pack
from gainrl_ray.actors.engine_slot import EngineSlot
from gainrl_ray.actors.pool import RolloutPool
from gainrl_ray.actors.rollout import Whereabouts, tail
from gainrl_ray.actors.weights import Probe, WeightStoreActor
from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.errors import EngineError, EngineStartError, ResourceError
from gainrl_ray.types import Completion, SampleRequest, Sampling

LIMIT_S = 240.0


def config(**rollout: Any) -> Config:
    small = {"engines": 2, "max_num_seqs": 16, "kv_cache_gib": 0.25, "cpus_per_engine": 0.5, "stall_deadline_s": 15.0}
    return Config.model_validate(
        {
            "model": {"path": "tiny", "dtype": "float32"},
            "data": {"prompt": {"max_tokens": 128}},
            "rollout": {"max_new_tokens": 128} | small | rollout,
            "sync": {"verify_tolerance": 1e-3, "deadline_s": 120.0},
        }
    )


class Learner:
    """A transformers model whose weights are published to a store."""

    def __init__(self, model_config: ModelConfig) -> None:
        from gainrl_ray.model.loading import load_model

        self.model = load_model(model_config)
        self.store = WeightStoreActor.remote(keep=2)

    def publish(self, version: int, attempt: int) -> None:
        import ray

        tokens = tuple(range(20, 60))
        with torch.no_grad():
            table = self.model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        logprobs = (0.0, *(table[t - 1, tokens[t]].item() for t in range(1, len(tokens))))
        calls = [self.store.begin.remote(version, attempt)]
        calls += [self.store.put.remote(version, bucket) for bucket in pack(self.model.named_parameters(), 1 << 20)]
        calls.append(self.store.commit.remote(version, Probe(token_ids=tokens, logprobs=logprobs)))
        ray.get(calls, timeout=60)

    def change(self) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))


class Slot:
    """An engine without a process, which can be told to fail."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_up = self.is_asleep = self.broken = False
        self.serves: object = None
        self.outstanding: dict[str, SampleRequest] = {}
        self.restarts = 0

    def bring_up(self, target: object, store: object) -> None:
        time.sleep(0.2)
        self.is_up, self.serves, self.is_asleep = True, target, False

    def sleep(self) -> None:
        if self.broken:
            raise EngineError("does not fall asleep")
        self.is_asleep = self.is_up

    def stop(self) -> None:
        self.is_up = self.is_asleep = False


def test_going_to_sleep_starts_nothing_and_ends_what_stays_awake() -> None:
    pool = RolloutPool(config(engines=3, max_engine_restarts=1))
    slots = pool._slots = [Slot(0), Slot(1), Slot(2)]  # pyright: ignore[reportAttributeAccessIssue]
    pool._tasks = {1: (pool._threads.submit(slots[1].bring_up, None, None), None)}  # comes up meanwhile
    slots[0].is_up = True
    pool.sleep()
    assert [slot.is_asleep for slot in slots] == [True, True, False]
    assert not slots[2].is_up and not pool._tasks, "an engine that is down is started by the next sync"
    slots[0].broken = True
    pool.sleep()
    assert not slots[0].is_up and slots[1].is_asleep and not pool._tasks
    slots[0].is_up = True
    with pytest.raises(EngineError, match=r"does not fall asleep(.|\n)*no restart left"):
        pool.sleep()
    pool.close()


def test_an_engine_that_cannot_start_is_tried_twice() -> None:
    tried = []

    def refuse(target: object, store: object) -> None:
        tried.append(time.monotonic())
        raise EngineStartError("ValueError: no such model")

    pool = RolloutPool(config(engines=1, max_engine_restarts=3))
    (slot,) = pool._slots = [Slot(0)]  # pyright: ignore[reportAttributeAccessIssue]
    slot.bring_up = refuse
    with pytest.raises(EngineError, match=r"no such model\nno restart left"):
        pool.start()
    assert len(tried) == 2
    pool.close()


def test_wrong_weights_are_told_without_the_log_and_long_lines_are_cut(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("x" * 1000 + "\nlast")
    assert tail(str(log)) == "x" * 200 + " ...\nlast"
    slot = EngineSlot(0, config())
    slot._where = Whereabouts(node_id="n", node="10.0.0.1", pid=7, log_file=str(log))
    said = "engine 0 (node 10.0.0.1, process 7) failed: they differ; log " + str(log)
    assert slot.told("failed: they differ", with_log=False) == said


@pytest.fixture(scope="module")
def learner(ray_session: None, tiny_model_config: ModelConfig) -> Iterator[Learner]:
    import ray

    learner = Learner(tiny_model_config)
    learner.publish(0, 1)
    yield learner
    ray.kill(learner.store)


@pytest.fixture(scope="module")
def pool(learner: Learner) -> Iterator[RolloutPool]:
    pool = RolloutPool(config())
    pool.use_store(learner.store)
    pool.start()
    yield pool
    pool.close()


def requests(problems: int = 12, samples: int = 4, new_tokens: int = 48) -> list[SampleRequest]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=new_tokens)
    return [
        SampleRequest(
            request_id=f"{problem}/{sample}",
            token_ids=tuple(range(30 + problem, 60 + problem)),
            seed=problem * 100 + sample,
            sampling=sampling,
        )
        for problem in range(problems)
        for sample in range(samples)
    ]


def answers(pool: RolloutPool, asked: list[SampleRequest], version: int) -> dict[str, Completion]:
    """Completions by id; fails when an id comes twice or not at all."""
    found: dict[str, Completion] = {}
    for request_id, completion in pool.generate(asked, version, LIMIT_S):
        assert request_id not in found
        found[request_id] = completion
    assert set(found) == {request.request_id for request in asked}
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S} s for {what}"
        time.sleep(0.2)


def states(pool: RolloutPool) -> list[str]:
    return [engine["state"] for engine in pool.describe()]


def test_engines_start_stale_and_refuse_to_generate(pool: RolloutPool) -> None:
    assert states(pool) == ["stale", "stale"]
    with pytest.raises(EngineError, match="version 0 were asked, the engines serve None"):
        next(pool.generate(requests(1), 0, LIMIT_S))


def test_two_engines_share_a_step(pool: RolloutPool) -> None:
    figures = pool.sync(0)
    assert figures["engines"] == 2
    assert figures["worst_difference"] <= 1e-3
    assert figures["bytes"] > 1e6
    found = answers(pool, requests(), 0)
    assert pool.figures.completions == 48
    assert pool.figures.completion_tokens == sum(len(completion.token_ids) for completion in found.values())
    generated = [engine["generated_tokens"] for engine in pool.describe()]
    assert min(generated) > 0.2 * sum(generated)
    assert [engine["outstanding"] for engine in pool.describe()] == [0, 0]


def test_wrong_versions_and_requests_are_refused(pool: RolloutPool) -> None:
    pool.sync(0)
    with pytest.raises(EngineError, match="version 1 were asked, the engines serve 0"):
        next(pool.generate(requests(1), 1, LIMIT_S))
    with pytest.raises(EngineError, match="ids are not unique"):
        next(pool.generate([*requests(1), *requests(1)], 0, LIMIT_S))
    with pytest.raises(EngineError, match="accepted are 1 to 256 together"):
        next(pool.generate(requests(1, new_tokens=240), 0, LIMIT_S))


def test_closing_the_stream_frees_the_engines(pool: RolloutPool) -> None:
    pool.sync(0)
    with closing(pool.generate(requests(new_tokens=200), 0, LIMIT_S)) as stream:
        next(stream)
        with pytest.raises(EngineError, match="another start, sync or generate is under way"):
            pool.sync(0)
    assert [engine["outstanding"] for engine in pool.describe()] == [0, 0]
    pool.invalidate()
    assert pool.sync(0)["engines"] == 2


def test_a_killed_engine_loses_nothing_and_comes_back(pool: RolloutPool) -> None:
    pool.sync(0)
    asked = requests(problems=24)
    undisturbed = answers(pool, asked, 0)
    victim = pool.describe()[0]
    found: dict[str, Completion] = {}
    for request_id, completion in pool.generate(asked, 0, LIMIT_S):
        if not found:
            os.kill(victim["pid"], signal.SIGKILL)
        assert request_id not in found
        found[request_id] = completion
    assert_same_completions(found, undisturbed)  # by their seeds, whichever engine gives them
    assert pool.figures.resent > 0
    until(lambda: states(pool) == ["serving", "serving"], "the killed engine to come back")
    back = pool.describe()[0]
    assert back["restarts"] == victim["restarts"] + 1
    assert back["pid"] != victim["pid"]
    assert_same_completions(answers(pool, asked, 0), undisturbed)
    assert pool.describe()[0]["generated_tokens"] > 0


def test_a_newer_attempt_may_publish_the_same_version_again(pool: RolloutPool, learner: Learner) -> None:
    pool.sync(0)
    before = answers(pool, requests(2), 0)
    learner.change()
    learner.publish(0, 2)
    pool.invalidate()
    assert states(pool) == ["stale", "stale"]
    pool.sync(0)
    after = answers(pool, requests(2), 0)
    assert [after[name].token_ids for name in before] != [each.token_ids for each in before.values()]


def test_a_hanging_engine_is_replaced(pool: RolloutPool) -> None:
    pool.sync(0)
    asked = requests(new_tokens=200)
    before = pool.describe()[1]
    stream = pool.generate(asked, 0, LIMIT_S)
    found = [next(stream)[0]]
    os.kill(before["pid"], signal.SIGSTOP)
    found += [request_id for request_id, _ in stream]
    assert sorted(found) == sorted(request.request_id for request in asked)
    until(lambda: states(pool) == ["serving", "serving"], "the hanging engine's successor")
    after = pool.describe()[1]
    assert (after["restarts"], after["pid"] != before["pid"]) == (before["restarts"] + 1, True)


def test_a_lost_engine_without_a_restart_left_ends_the_run(ray_session: None, learner: Learner) -> None:
    pool = RolloutPool(config(engines=1, max_engine_restarts=0))
    pool.use_store(learner.store)
    try:
        pool.start()
        pool.sync(0)
        stream = pool.generate(requests(new_tokens=200), 0, LIMIT_S)
        next(stream)
        victim = pool.describe()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(
            EngineError, match=rf"engine 0 .*process {victim}.* died(.|\n)*last lines(.|\n)*no restart left"
        ):
            list(stream)
    finally:
        pool.close()


def test_impossible_resources_are_refused_at_once(ray_session: None, learner: Learner) -> None:
    pool = RolloutPool(config(cpus_per_engine=1000))
    pool.use_store(learner.store)
    started = time.monotonic()
    with pytest.raises(ResourceError, match=r"engine \d needs \{'CPU': 1000.0\} on one node, no node is large enough"):
        pool.start()
    assert time.monotonic() - started < 30.0
    pool.close()
