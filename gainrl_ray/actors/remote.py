"""An actor's methods as plain calls with a deadline."""

from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from gainrl_ray.errors import DeadlineError, GainrlError


class Remote:
    """Calls `handle`'s methods as if they were local; every call ends within `deadline_s` seconds.

    Raises:
        DeadlineError: no answer in time; names the actor and the method.
        GainrlError: the actor is dead; names it, with Ray's account of its end.
        Whatever the method itself raises; of this package's errors the error alone, without Ray's account of it.
    """

    def __init__(self, handle: ActorHandle, name: str, deadline_s: float) -> None:
        self._handle, self._name, self._deadline_s = handle, name, deadline_s

    def __getattr__(self, method: str) -> Any:
        remote_method = getattr(self._handle, method)

        def call(*arguments: Any, **named: Any) -> Any:
            return self.result(remote_method.remote(*arguments, **named), method)

        return call

    @property
    def handle(self) -> ActorHandle:
        """The actor itself."""
        return self._handle

    def result(self, ref: ObjectRef, method: str) -> Any:
        """What a call of `method` that was sent before gives; raises as above."""
        try:
            return ray.get(ref, timeout=self._deadline_s)
        except GetTimeoutError as error:
            raise DeadlineError(f"the {self._name} did not answer {method} within {self._deadline_s:.0f} s") from error
        except ActorDiedError as error:
            raise GainrlError(f"the {self._name} died during {method}: {error}") from error
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, GainrlError) else error) from error
