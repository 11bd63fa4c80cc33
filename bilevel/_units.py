"""When conjugate gradients are slow, in which units of theta they search."""

SLOW = 40
"""Steps of conjugate gradients from which on other units of theta are tried."""
PAYS = 0.7
"""The part of the steps before that they may take, to be kept."""


class Units:
    """Whether conjugate gradients had better search theta in units of the rows of the Hessian."""

    def __init__(self):
        self.pay, self.plain, self.needed = False, 0, False

    def insist(self) -> bool:
        """From a solve on that failed without them; whether that is news."""
        news = not self.needed
        self.pay = self.needed = True
        return news

    def follow(self, steps: int) -> None:
        """After a solve that took so many steps: try, keep, or leave them."""
        if self.needed:
            return
        if not self.pay and steps > max(SLOW, 2 * self.plain):
            self.pay, self.plain = True, steps
        elif self.pay and steps > PAYS * self.plain:
            self.pay = False
