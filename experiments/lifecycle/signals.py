"""What SIGTERM and Ctrl-C ask of a run: to stop after the step in flight, its state saved.

A thread hears the signals, so that they are heard while the main thread compiles or waits for a
device or another process. Before there is something to save, and at a second signal, it ends the
process itself.

Only the standard library is loaded here: a program listens before it imports anything heavy.
"""

import os
import signal
import threading

from experiments.lifecycle import exit_codes

_CODES = {signal.SIGTERM: exit_codes.PREEMPTED, signal.SIGINT: exit_codes.INTERRUPTED}


class Stop:
    """Whether a run is to stop, and with which exit code.

    Where several processes train together, SIGTERM belongs to JAX's preemption service, which tells
    all of them and names the moment that they stop at together; a second one changes nothing there.
    Ctrl-C is handed on to it, and a second Ctrl-C ends this process at once.

    Attributes:
      code: the exit code that goes with the signal; PREEMPTED where another process had it.

    Example:
      >>> Stop().asked()  # nobody listens to signals
      False
    """

    def __init__(self) -> None:
        """Listens to nothing."""
        self.code = exit_codes.PREEMPTED
        self._heard: str | None = None
        self._waits = self._together = False
        self._moments = 0
        self._reached = False

    @property
    def name(self) -> str:
        """Which signal was heard, by name; where another process had it, SIGTERM."""
        return self._heard or signal.SIGTERM.name

    def listen(self) -> None:
        """Takes over SIGTERM and SIGINT; to be called from the main thread of a program.

        A signal that the program was started to ignore, as by nohup, stays ignored.
        """
        receive, send = os.pipe()
        os.set_blocking(send, False)
        # The number of a signal is written when it comes, not when the main thread gets to it.
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        for number in _CODES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._listen, args=(receive,), name="signals", daemon=True).start()

    def waits(self, *, together: bool = False) -> None:
        """From now on there is something to save, and a first signal waits for `asked`.

        Args:
          together: whether other processes take part in the run.
        """
        self._together, self._waits = together, True

    def asked(self) -> bool:
        """Whether the run is to stop now.

        Returns:
          The same in all processes of a run; each has to call this at the same moments. Once True
          it stays so.
        """
        if not self._together:
            return self._heard is not None
        from jax.experimental import multihost_utils

        self._moments += 1
        self._reached = self._reached or multihost_utils.reached_preemption_sync_point(
            self._moments
        )
        return self._reached

    def _listen(self, receive: int) -> None:
        while True:
            for number in os.read(receive, 64):
                if number in _CODES:
                    self._hear(signal.Signals(number))

    def _hear(self, number: signal.Signals) -> None:
        if not self._waits or self._heard:
            exit_codes.say(
                f"stopped by {number.name} at once: the same command goes on from what is saved"
            )
            exit_codes.leave(_CODES[number])
        self.code, self._heard = _CODES[number], number.name
        exit_codes.say(
            f"{number.name}: the run stops after the step in flight, and saves; once more: at once"
        )
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)
