"""SIGTERM and Ctrl-C, noted for when the step is finished."""

import signal
import threading


class Signals:
    """While open, SIGTERM and SIGINT are only noted, in `received`; a second one acts as it did before."""

    received: int | None = None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum, frame):
        self.received = signum
        self.__exit__()

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
