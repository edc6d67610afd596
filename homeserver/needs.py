# SPDX-License-Identifier: Apache-2.0
"""How a module declares what it needs of others: `class Rooms(Protocol): …`.

For the type checker this is `typing.Protocol`. Where the server runs nobody asks such a class anything, and hundreds of
them, each with its methods and what is said of them, were megabytes of every process: there they leave nothing behind.
They can be named, in an annotation or an alias of types; to inherit from one or to ask `isinstance` is an error.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Protocol"]

if TYPE_CHECKING:
    from typing import Protocol
else:

    class _Forgetting(type):
        """Makes one and the same class of all that declare needs."""

        def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(mcs, name, bases, namespace)
            if Protocol not in bases:
                raise TypeError(f"{name} must not inherit from what declares a need")
            return _Declared

        def __getitem__(cls, _parameters: Any) -> type:
            return cls

        def __instancecheck__(cls, _instance: Any) -> bool:
            raise TypeError("what declares a need is not there to be asked")

    class Protocol(metaclass=_Forgetting):
        """What an object must have, as `typing.Protocol` has it."""

    class _Declared(metaclass=_Forgetting):
        """Any of them."""
