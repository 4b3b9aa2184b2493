"""What the policy should have done: the improvement operators, their critic, and the search for a stance that moves."""

from vintix_fast.improve.critic import Critic
from vintix_fast.improve.operators import CloneImprover, CriticImprover, Improver, make_improver
