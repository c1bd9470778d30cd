/* Changes of the store, with what must hold at each. */

inline drop(c) {
	isLate[c] = 0;
	for (w : 0 .. N-1) { late[c].does[w] = 0 }
	w = 0
}

inline putPermit(m, p) {
	permit[m] = p;
	for (k : 0 .. C-1) {
		book[k].samePermit[m] = 0;
#ifdef MUTANT_OLD_EVENT
		gone[k].does[m] = gone[k].does[m] || (p == NONE);
#endif
		if
#ifndef MUTANT_END_WITHOUT_PERMIT
		:: late[k].does[m] > GRANT -> drop(k)
#endif
		:: else
		fi
	}
	k = 0;
	if
#ifndef MUTANT_FENCE_WITHOUT_PERMIT
	:: lateMove[m] > ASK -> lateMove[m] = 0; lateBoot[m] = 0
#endif
	:: else
	fi;
#ifndef MUTANT_TAKE_AWAY_WITHOUT_PERMIT
	if
	:: operatorOn == m -> operatorSame = 0
	:: else
	fi
#endif
}

inline forgetTicket(m) {
	for (k : 0 .. C-1) {
		book[k].sameTicket[m] = 0;
		if
#ifndef MUTANT_GRANT_WITHOUT_TICKET
		:: late[k].does[m] == GRANT -> drop(k)
#endif
		:: else
		fi
	}
	k = 0
}

inline dropTicket(m) {
	for (k : 0 .. N-1) {
		if
		:: ticket[m] && ticket[k] > ticket[m] -> ticket[k] = ticket[k] - 1
		:: else
		fi
	}
	ticket[m] = 0;
	forgetTicket(m)
}

inline putTicket(m) {
	ticket[m] = 1;
#ifdef FIFO
	for (k : 0 .. N-1) {
		if
		:: k != m && ticket[k] >= ticket[m] -> ticket[m] = ticket[k] + 1
		:: else
		fi
	}
#endif
	forgetTicket(m)
}

/* Rules, cluster or failures were written. */
inline putRules() {
	for (k : 0 .. C-1) {
		book[k].sameRules = 0;
#ifndef MUTANT_GRANT_WITHOUT_RULES
		drop(k)
#endif
	}
	for (k : 0 .. N-1) {
		if
#ifndef MUTANT_FENCE_WITHOUT_FREEZE
		:: lateMove[k] > ASK && lateMove[k] < ENDED -> lateMove[k] = 0; lateBoot[k] = 0
#endif
		:: else
		fi
	}
	k = 0
}

inline depose() {
#ifndef MUTANT_WITHOUT_LEADERSHIP
	if
	:: leader < C -> drop(leader)
	:: else
	fi;
#endif
	leader = NOBODY
}

/* ---- the coordinator's transactions, and what must hold at them ------------ */

#if N == 2
#define HOLDERS (LIVE(permit[0]) + LIVE(permit[1]))
#define HOLDING(b) (LIVE(b.permit[0]) + LIVE(b.permit[1]))
#define GRANTS (what[0] == GRANT || what[1] == GRANT)
#define ABSENT ((what[0] != GRANT || permit[0] == NONE) && (what[1] != GRANT || permit[1] == NONE))
#else
#define HOLDERS (LIVE(permit[0]) + LIVE(permit[1]) + LIVE(permit[2]))
#define HOLDING(b) (LIVE(b.permit[0]) + LIVE(b.permit[1]) + LIVE(b.permit[2]))
#define GRANTS (what[0] == GRANT || what[1] == GRANT || what[2] == GRANT)
#define ABSENT ((what[0] != GRANT || permit[0] == NONE) && (what[1] != GRANT || permit[1] == NONE) && (what[2] != GRANT || permit[2] == NONE))
#endif

/* What is in `what` is carried out. */
inline carryOut() {
	grants = GRANTS;
	assert(!grants || !frozen);              /* no grant after a freeze */
	for (j : 0 .. N-1) {
		if
		:: what[j] == GRANT -> inTurn(j)
		:: what[j] == END -> assert(permit[j] == ENDED) /* no permit lost */
		:: what[j] == LAPSE -> assert(permit[j] == GRANTED)
		:: else
		fi
	}
	for (j : 0 .. N-1) {
		if
		:: what[j] == GRANT ->
			assert(ticket[j] && permit[j] == NONE); /* to one that waits */
			putPermit(j, GRANTED);
			dropTicket(j);
			newBoot[j] = 0
		:: what[j] > GRANT ->
			assert(!DOWN(j) || taken[j] || dead[j]);
			putPermit(j, NONE);
			newBoot[j] = 0
		:: else
		fi
	}
	assert(!grants || HOLDERS <= limit);     /* at most max holders */
	for (j : 0 .. N-1) { /* who is down holds one of them */
		assert(!grants || !DOWN(j) || LIVE(permit[j]) || taken[j] || dead[j])
	}
	grants = 0;
	j = 0
}

/* First come, first served: who came before m gets its permit with m, or has
 * one. */
inline inTurn(m) {
#ifdef FIFO
	for (k : 0 .. N-1) {
		assert(!(ticket[k] && ticket[k] < ticket[m]) || what[k] == GRANT || permit[k] != NONE)
	}
	k = 0
#else
	skip
#endif
}

