"""Every stage of a real sync is timed, and the figures hang together."""

from gainrl_ray.benchmarks.syncing import NAMES, SyncBenchmark, run


def test_the_stages_of_a_sync_into_a_real_engine(ray_session: None) -> None:
    figures = run(SyncBenchmark(shape="tiny", dtype="float32", bucket_mib=1.0, rounds=2))
    assert figures["MB of a version"] == 4246528 / 1e6
    seconds = figures["seconds"]
    assert list(seconds) == [*NAMES.values(), "whole sync"]
    assert all(0 < spread.low <= spread.median <= spread.high for spread in seconds.values())
    assert seconds["whole sync"].low >= seconds["load into the engine"].low
    speed = figures["GB/s"]["whole sync"]
    assert abs(speed.high * seconds["whole sync"].low - 0.004246528) < 1e-6
