/* The reboot lock's queue, grant and fence. README.md beside this file says
 * what is modelled, what is left out, and what each check claims.
 *
 * Every transition is one thing that happens as a whole: one transaction or one
 * read of the store, one event that reaches a book, one act of a machine upon
 * itself. Between any two of them everybody else may go on.
 */
#ifndef N
#define N 2                     /* machines of the group: 2 or 3 */
#endif
#ifndef MAX
#define MAX 1                   /* Rules.Max at the beginning, and the most that it is raised to */
#endif
#define C 2                     /* daemons that may coordinate */
#define NOBODY C

/* The phases of a permit, as in lock.go. NONE: there is no such key. */
#define NONE 0
#define GRANTED 1
#define DRAINING 2
#define STAGING 3
#define REBOOTING 4
#define ENDED 5
#define LIVE(p) ((p) != NONE && (p) != ENDED)

/* A machine's disk: nothing to do, a release is written, it is staged, it is
 * booted on trial. */
#define IDLE 0
#define WRITTEN 1
#define STAGED 2
#define TRIAL 3
#define DOWN(m) (away[m] || disk[m] >= STAGED) /* its work is off it, or its next boot is a trial */

/* What a transaction of the coordinator does about one machine. */
#define GRANT 1
#define END 2                   /* books a permit that ended, and deletes it */
#define LAPSE 3                 /* deletes a grant that was not collected */

/* ORDERED: a watch tells of all keys in the order of their revisions, and only
 * the first in the queue are granted, which is then claimed. Else each key's
 * changes come in their own time, and anyone may be passed over. */
#ifdef ORDERED
#define FIFO
#endif
#ifdef MUTANT_WATCH_OF_EACH_KEY
#undef ORDERED
#endif

/* ---- the store -------------------------------------------------------- */

byte ticket[N];                 /* place in the queue by Created, from 1 (where that matters); 0: none */
byte permit[N];
byte limit = MAX;               /* Rules.Max */
bit frozen;                     /* Rules.Freeze, Cluster.Freeze, or a release that was stopped */
byte leader = NOBODY;           /* whose leadership key there is */
bit newBoot[N];                 /* Permit.Boot is not the boot that the machine is in */

/* ---- who knows what --------------------------------------------------- */

/* A revision is compared with nothing but the one in the store. So numbers,
 * which would never end, are not needed: one bit says that what was read is
 * still what is there, and every write clears it in all that read before. */
typedef Book {
	bit reigns;             /* it believes that it leads */
	byte ticket[N];
	byte permit[N];         /* DRAINING stands for STAGING and REBOOTING too */
	byte limit;
	bit frozen;
	bit sameTicket[N];
	bit samePermit[N];      /* of GRANTED and ENDED */
	bit sameRules;          /* rules, cluster and failures: one record here */
}
Book book[C];

/* The permit that the operator looks at. */
byte operatorOn = N;
bit operatorSame;

/* Transactions that are under way while their sender no longer waits for them:
 * the store may carry them out at any time. One of which a condition no longer
 * holds never will be, and is dropped at once. */
typedef Draft { byte does[N] }
Draft late[C];                  /* of a coordinator */
bit isLate[C];
#ifdef MUTANT_OLD_EVENT
Draft gone[C];                  /* the end of a permit, of which the watch is yet to tell */
#endif
byte lateMove[N];               /* of a machine: the phase that it moves to, or */
#define ASK 1                   /* a ticket */
bit lateBoot[N];                /* that was sent in a boot before this one */

/* ---- the machines ------------------------------------------------------ */

byte disk[N];
bit away[N];                    /* its work was drained, and is not back */
bit dead[N];                    /* for ever */

/* Only claims read these. */
bit taken[N];                   /* the permit was taken away while it was down, and it has not put that right */
bit clear[N];                   /* nothing forbade the reboot when it last asked the store */

/* ---- how much may go wrong ---------------------------------------------- */

#ifdef FAULTS
byte faults = FAULTS;
#define MAYFAIL (faults > 0)
#define SPEND faults--
#else
#define MAYFAIL true
#define SPEND skip
#endif
#ifdef ACTS
byte acts = ACTS;               /* of the operator, beside thawing and clearing up after the dead */
#define MAYACT (acts > 0)
#define ACT acts--
#define LOOKED if :: dead[x] :: else -> acts-- fi
#else
#define MAYACT true
#define ACT skip
#define LOOKED skip
#endif

/* Scratch, 0 between transitions. */
hidden byte j, k, z, w, room, x;
hidden byte ok, grants;
hidden byte what[N];          /* the transaction that is being made, or carried out */

#include "store.pml"
#include "coordinator.pml"
#include "machine.pml"
#include "others.pml"

init {
	atomic {
		run Coordinator(0); run Coordinator(1);
		run Machine(0); run Machine(1);
#if N == 3
		run Machine(2);
#endif
		run Operator(); run Nature()
	}
}

#ifdef PROGRESS
/* Who waits is granted, for as long as it lives. */
ltl progress { [] ((disk[0] == WRITTEN && !LIVE(permit[0])) -> <> (LIVE(permit[0]) || dead[0])) }
#endif
