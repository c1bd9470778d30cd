/* The operator (operator_machine.go, operator_group.go), and what nobody does on
 * purpose. */

/* Without force a permit in REBOOTING is taken away only on evidence: the
 * machine is there in another boot, or is known to be dead. */
#ifdef MUTANT_NOBODY_CLEARS_UP
#define CLEARUP(m) false
#else
#define CLEARUP(m) (dead[m] && LIVE(permit[m]))
#endif
#define MAYTAKE(m) (CLEARUP(m) || MAYACT && (permit[m] >= GRANTED && permit[m] <= STAGING || permit[m] == REBOOTING && newBoot[m]))

inline takeAway(m) {
	putPermit(m, NONE);
	taken[m] = 1; newBoot[m] = 0; clear[m] = 0
}

proctype Operator() {
end:
	do
	:: d_step { !frozen && MAYACT -> ACT; frozen = 1; putRules() }
	:: d_step { frozen -> frozen = 0; putRules() }
#if MAX > 1
	:: d_step { MAYACT -> ACT; limit = (limit == MAX -> MAX - 1 : MAX); putRules() }
#endif
	/* it looks at a permit, and takes it away if it is still so */
	:: d_step { operatorOn == N && MAYTAKE(0) -> operatorOn = 0; operatorSame = 1 }
	:: d_step { operatorOn == N && MAYTAKE(1) -> operatorOn = 1; operatorSame = 1 }
#if N == 3
	:: d_step { operatorOn == N && MAYTAKE(2) -> operatorOn = 2; operatorSame = 1 }
#endif
	:: d_step { operatorOn < N ->
		x = operatorOn;
		if
		:: operatorSame && (dead[x] || MAYACT) -> LOOKED; takeAway(x)
		:: else
		fi;
		operatorOn = N; operatorSame = 0; x = 0
	}
	od
}

/* ---- what nobody does on purpose ------------------------------------------- */

inline lapse(m) {
	/* a lease ends */
	if
	:: d_step { ticket[m] && dead[m] -> dropTicket(m) }
	:: d_step { ticket[m] && !dead[m] && MAYFAIL -> SPEND; dropTicket(m) }
#ifdef MUTANT_PERMIT_LEASED
	:: d_step { LIVE(permit[m]) && MAYFAIL -> SPEND; putPermit(m, NONE) }
#endif
	/* what was under way arrives, or does not */
	:: d_step { lateMove[m] == ASK && !ticket[m] && !LIVE(permit[m]) -> lateMove[m] = 0; putTicket(m) }
	:: d_step { lateMove[m] > ASK && lateMove[m] < ENDED -> x = lateMove[m]; lateMove[m] = 0; moved(m, x, lateBoot[m]); lateBoot[m] = 0; x = 0 }
	:: d_step { lateMove[m] == ENDED -> lateMove[m] = 0; lateBoot[m] = 0; ended(m) }
	:: d_step { lateMove[m] -> lateMove[m] = 0; lateBoot[m] = 0 }
	fi
}

inline arrive(c) {
	for (j : 0 .. N-1) { what[j] = late[c].does[j] }
	drop(c);
	if
	:: ABSENT -> carryOut()
	:: else
	fi;
	for (j : 0 .. N-1) { what[j] = 0 }
	j = 0
}

proctype Nature() {
end:
	do
	/* the leader's lease ends: while it believes in it, and after it gave up */
	:: d_step { leader != NOBODY && book[leader].reigns && MAYFAIL -> SPEND; depose() }
#ifndef MUTANT_LEADERSHIP_WITHOUT_LEASE
	:: d_step { leader != NOBODY && !book[leader].reigns -> depose() }
#endif
	:: atomic { lapse(0) }
	:: atomic { lapse(1) }
#if N == 3
	:: atomic { lapse(2) }
#endif
	:: d_step { isLate[0] -> arrive(0) }
	:: d_step { isLate[1] -> arrive(1) }
	:: d_step { isLate[0] -> drop(0) }
	:: d_step { isLate[1] -> drop(1) }
	od
}

