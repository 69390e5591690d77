// metronorm.clock._ticking: code that runs on the training thread several times in every tick.
//
// At any moment the passing time belongs to one place, by the stack of open accounts:
//
//   open accounts | counting | charge() adds the time to   | because
//   at least one  | either   | the innermost account       | a phase does not count phases inside it
//   none          | true     | rest_ns                     | a tick is running: `unattributed`
//   none          | false    | nothing                     | between two loops
//
// charge() runs before every change of that state, so the accounts and the rest add up to the time
// of a tick to the nanosecond. `now` may be any Python function and may let other threads run; no
// other step does, so each function is atomic under the GIL from its last call of `now` on.
#include <Python.h>
#include <structmember.h>

#include <climits>

namespace {

struct Account {
  PyObject_HEAD
  PyObject* accounts;
  PyObject* name;
  long long ns;
};

struct Accounts {
  PyObject_HEAD
  PyObject* now;           // null before __init__
  PyObject* rest;          // the name of time outside of accounts
  PyObject* counts;        // called in other threads than `thread`: does this account count?
  PyObject* all;           // a list of Account
  Account** open;          // the open ones, the innermost last; one may be there several times
  Py_ssize_t depth, room;  // of `open`
  long long since;         // all time until here is charged
  long long last, rest_ns, entered;
  unsigned long thread;  // the thread that called begin(); 0: none
  char counting;
};

struct Pauses {
  PyObject_HEAD
  PyObject* now;      // null before __init__
  PyObject* longest;  // a list of (generation, begin, ns)
  long long long_ns, since, spent;
  char collecting;
};

template <class T>
T* as(PyObject* object) {
  return reinterpret_cast<T*>(object);
}

bool is_made(PyObject* now) {
  if (!now) PyErr_SetString(PyExc_RuntimeError, "__init__ was not called");
  return now;
}

// Reads the time; false if that raised.
bool read(PyObject* clock, long long* moment) {
  PyObject* now = PyObject_CallNoArgs(clock);
  if (!now) return false;
  *moment = PyLong_AsLongLong(now);
  Py_DECREF(now);
  return *moment != -1 || !PyErr_Occurred();
}

// Charges the time since the last call; false if that raised. Only `now` may run Python code: the
// rest of a function after it is atomic for other threads.
bool charge(Accounts* self) {
  long long moment;
  if (!is_made(self->now) || !read(self->now, &moment)) return false;
  const long long passed = moment - self->since;
  self->since = moment;
  if (self->depth) {
    self->open[self->depth - 1]->ns += passed;
  } else if (self->counting) {
    self->rest_ns += passed;
  }
  return true;
}

PyObject* count(PyObject* object, bool counting) {
  Accounts* self = as<Accounts>(object);
  if (!charge(self)) return nullptr;
  if (counting) self->thread = PyThread_get_thread_ident();
  self->counting = counting;
  self->last = self->since;
  Py_RETURN_NONE;
}

PyObject* accounts_begin(PyObject* self, PyObject*) { return count(self, true); }
PyObject* accounts_pause(PyObject* self, PyObject*) { return count(self, false); }

bool put(PyObject* spent, PyObject* name, long long ns) {
  PyObject* value = PyLong_FromLongLong(ns);
  const bool done = value && PyDict_SetItem(spent, name, value) == 0;
  Py_XDECREF(value);
  return done;
}

PyObject* accounts_close(PyObject* object, PyObject*) {
  Accounts* self = as<Accounts>(object);
  PyObject* spent = PyDict_New();
  if (!spent || !charge(self)) {
    Py_XDECREF(spent);
    return nullptr;
  }
  self->last = self->since;
  long long wall_ns = self->rest_ns;
  bool done = true;
  for (Py_ssize_t index = 0; done && index < PyList_Size(self->all); ++index) {
    Account* account = as<Account>(PyList_GetItem(self->all, index));
    if (const long long ns = account->ns) {
      account->ns = 0;
      wall_ns += ns;
      done = put(spent, account->name, ns);
    }
  }
  done = done && put(spent, self->rest, self->rest_ns);
  self->rest_ns = 0;
  if (done) return Py_BuildValue("LN", wall_ns, spent);
  Py_DECREF(spent);
  return nullptr;
}

int accounts_clear(PyObject* object) {
  Accounts* self = as<Accounts>(object);
  Py_CLEAR(self->now);
  Py_CLEAR(self->rest);
  Py_CLEAR(self->counts);
  Py_CLEAR(self->all);
  PyMem_Free(self->open);
  self->open = nullptr;
  self->depth = self->room = 0;
  return 0;
}

int accounts_init(PyObject* object, PyObject* args, PyObject*) {
  Accounts* self = as<Accounts>(object);
  PyObject *now, *rest, *counts;
  if (!PyArg_ParseTuple(args, "OUO:Accounts", &now, &rest, &counts)) return -1;
  if (self->now) {
    PyErr_SetString(PyExc_RuntimeError, "Accounts.__init__ is called once");
    return -1;
  }
  self->now = Py_NewRef(now);
  self->rest = Py_NewRef(rest);
  self->counts = Py_NewRef(counts);
  self->all = PyList_New(0);
  if (!self->all || !charge(self)) {
    accounts_clear(object);
    return -1;
  }
  self->last = self->since;
  return 0;
}

int accounts_traverse(PyObject* object, visitproc visit, void* arg) {
  Accounts* self = as<Accounts>(object);
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self->now);
  Py_VISIT(self->counts);
  Py_VISIT(self->all);
  return 0;
}

void deallocate(PyObject* object) {  // its references are released already
  PyTypeObject* type = Py_TYPE(object);
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

void accounts_dealloc(PyObject* object) {
  PyObject_GC_UnTrack(object);
  accounts_clear(object);
  deallocate(object);
}

// --- Account -----------------------------------------------------------------------------------------

struct State {
  PyObject* accounts;  // the type
};

PyObject* account_new(PyTypeObject* type, PyObject* args, PyObject*) {
  const State* state = static_cast<State*>(PyType_GetModuleState(type));
  PyObject *accounts, *name;
  if (!PyArg_ParseTuple(args, "O!U:Account", state->accounts, &accounts, &name)) return nullptr;
  PyObject* object = is_made(as<Accounts>(accounts)->now) ? PyType_GenericAlloc(type, 0) : nullptr;
  if (!object) return nullptr;
  as<Account>(object)->accounts = Py_NewRef(accounts);
  as<Account>(object)->name = Py_NewRef(name);
  if (PyList_Append(as<Accounts>(accounts)->all, object) == 0) return object;
  Py_DECREF(object);
  return nullptr;
}

PyObject* account_enter(PyObject* object, PyObject*) {
  Accounts* accounts = as<Accounts>(as<Account>(object)->accounts);
  if (!charge(accounts)) return nullptr;
  if (accounts->depth == accounts->room) {
    const Py_ssize_t room = 2 * accounts->room + 8;
    void* grown = PyMem_Realloc(accounts->open, room * sizeof(Account*));
    if (!grown) return PyErr_NoMemory();
    accounts->open = static_cast<Account**>(grown);
    accounts->room = room;
  }
  accounts->open[accounts->depth++] = as<Account>(object);
  ++accounts->entered;
  Py_RETURN_NONE;
}

PyObject* account_leave(PyObject* object, PyObject*) {
  Accounts* accounts = as<Accounts>(as<Account>(object)->accounts);
  if (!charge(accounts)) return nullptr;
  Py_ssize_t depth = accounts->depth;
  while (depth && accounts->open[depth - 1] != as<Account>(object)) --depth;
  // accounts inside are left too: a generator may have stopped inside one
  if (depth) accounts->depth = depth - 1;
  Py_RETURN_NONE;
}

// Whether this account counts in this thread: 1, 0, or -1 if `counts` raised.
int counts_here(PyObject* object) {
  const Accounts* accounts = as<Accounts>(as<Account>(object)->accounts);
  if (!accounts->thread || accounts->thread == PyThread_get_thread_ident()) return 1;
  PyObject* answer =
      PyObject_CallFunctionObjArgs(accounts->counts, as<Account>(object)->name, nullptr);
  const int counts = answer ? PyObject_IsTrue(answer) : -1;
  Py_XDECREF(answer);
  return counts;
}

PyObject* if_it_counts(PyObject* object, PyCFunction act) {
  const int counts = counts_here(object);
  if (counts > 0) return act(object, nullptr);
  return counts ? nullptr : Py_NewRef(Py_None);
}

PyObject* phase_enter(PyObject* object, PyObject*) { return if_it_counts(object, account_enter); }

PyObject* phase_exit(PyObject* object, PyObject* const*, Py_ssize_t) {
  return if_it_counts(object, account_leave);
}

// No tp_clear: every reference cycle of an account goes through Accounts, which has one.
int account_traverse(PyObject* object, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(as<Account>(object)->accounts);
  return 0;
}

void account_dealloc(PyObject* object) {
  PyObject_GC_UnTrack(object);
  Py_XDECREF(as<Account>(object)->accounts);
  Py_XDECREF(as<Account>(object)->name);
  deallocate(object);
}

// --- Pauses ------------------------------------------------------------------------------------------

int pauses_clear(PyObject* object) {
  Py_CLEAR(as<Pauses>(object)->now);
  Py_CLEAR(as<Pauses>(object)->longest);
  return 0;
}

int pauses_init(PyObject* object, PyObject* args, PyObject*) {
  Pauses* self = as<Pauses>(object);
  PyObject* now;
  if (!PyArg_ParseTuple(args, "OL:Pauses", &now, &self->long_ns)) return -1;
  pauses_clear(object);
  self->longest = PyList_New(0);
  if (!self->longest) return -1;
  self->now = Py_NewRef(now);
  return 0;
}

int pauses_traverse(PyObject* object, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(as<Pauses>(object)->now);
  Py_VISIT(as<Pauses>(object)->longest);
  return 0;
}

void pauses_dealloc(PyObject* object) {
  PyObject_GC_UnTrack(object);
  pauses_clear(object);
  deallocate(object);
}

PyObject* pauses_notice(PyObject* object, PyObject* const* args, Py_ssize_t given) {
  Pauses* self = as<Pauses>(object);
  if (given != 2 || !PyUnicode_Check(args[0]) || !PyDict_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "notice(phase: str, info: dict)");
    return nullptr;
  }
  long long moment;
  if (!is_made(self->now) || !read(self->now, &moment)) return nullptr;
  if (PyUnicode_CompareWithASCIIString(args[0], "start") == 0) {
    self->since = moment;
    self->collecting = 1;
  } else if (self->collecting) {
    const long long ns = moment - self->since;
    self->collecting = 0;
    self->spent += ns;
    if (ns >= self->long_ns) {
      PyObject* generation = PyDict_GetItemString(args[1], "generation");
      PyObject* pause =
          Py_BuildValue("OLL", generation ? generation : Py_None, self->since, ns);
      const bool done = pause && PyList_Append(self->longest, pause) == 0;
      Py_XDECREF(pause);
      if (!done) return nullptr;
    }
  }
  Py_RETURN_NONE;
}

PyObject* pauses_take(PyObject* object, PyObject*) {
  PyObject* spent = PyLong_FromLongLong(as<Pauses>(object)->spent);
  if (spent) as<Pauses>(object)->spent = 0;
  return spent;
}

PyObject* pauses_take_longest(PyObject* object, PyObject*) {
  Pauses* self = as<Pauses>(object);
  if (!is_made(self->now)) return nullptr;
  PyObject* next = PyList_New(0);
  if (!next) return nullptr;
  PyObject* longest = self->longest;
  self->longest = next;
  return longest;
}

// --- the module --------------------------------------------------------------------------------------

PyObject* all_plain(PyObject*, PyObject* const* args, Py_ssize_t given) {
  if (given != 2 || !PyDict_Check(args[0]) || !PyAnySet_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "all_plain(metrics: dict, known: set)");
    return nullptr;
  }
  Py_ssize_t position = 0;
  PyObject *name, *value;
  while (PyDict_Next(args[0], &position, &name, &value)) {
    if (!PyFloat_CheckExact(value)) {
      if (!PyLong_CheckExact(value)) Py_RETURN_FALSE;
      int overflow;
      const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
      if (overflow || number == LLONG_MIN) Py_RETURN_FALSE;  // more than LARGEST, or -2**63
    }
    const int is_known = PySet_Contains(args[1], name);
    if (is_known < 0) return nullptr;
    if (!is_known) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

template <class F>
void* slot(F* function) {
  return reinterpret_cast<void*>(function);
}

PyMethodDef accounts_methods[] = {
    {"begin", accounts_begin, METH_NOARGS, nullptr},
    {"pause", accounts_pause, METH_NOARGS, nullptr},
    {"close", accounts_close, METH_NOARGS, nullptr},
    {}};

PyMemberDef accounts_members[] = {
    {"last", T_LONGLONG, offsetof(Accounts, last), READONLY, nullptr},
    {"entered", T_LONGLONG, offsetof(Accounts, entered), READONLY, nullptr},
    {"counting", T_BOOL, offsetof(Accounts, counting), READONLY, nullptr},
    {}};

PyType_Slot accounts_slots[] = {
    {Py_tp_init, slot(accounts_init)},         {Py_tp_dealloc, slot(accounts_dealloc)},
    {Py_tp_traverse, slot(accounts_traverse)}, {Py_tp_clear, slot(accounts_clear)},
    {Py_tp_methods, accounts_methods},         {Py_tp_members, accounts_members},
    {}};

PyMethodDef account_methods[] = {
    {"enter", account_enter, METH_NOARGS, nullptr},
    {"leave", account_leave, METH_NOARGS, nullptr},
    {"__enter__", phase_enter, METH_NOARGS, nullptr},
    {"__exit__", reinterpret_cast<PyCFunction>(slot(phase_exit)), METH_FASTCALL, nullptr},
    {}};

PyType_Slot account_slots[] = {{Py_tp_new, slot(account_new)},
                               {Py_tp_dealloc, slot(account_dealloc)},
                               {Py_tp_traverse, slot(account_traverse)},
                               {Py_tp_methods, account_methods},
                               {}};

PyMethodDef pauses_methods[] = {
    {"notice", reinterpret_cast<PyCFunction>(slot(pauses_notice)), METH_FASTCALL, nullptr},
    {"take", pauses_take, METH_NOARGS, nullptr},
    {"take_longest", pauses_take_longest, METH_NOARGS, nullptr},
    {}};

PyType_Slot pauses_slots[] = {{Py_tp_init, slot(pauses_init)},
                              {Py_tp_dealloc, slot(pauses_dealloc)},
                              {Py_tp_traverse, slot(pauses_traverse)},
                              {Py_tp_clear, slot(pauses_clear)},
                              {Py_tp_methods, pauses_methods},
                              {}};

PyType_Spec accounts_spec = {"metronorm.clock._ticking.Accounts", sizeof(Accounts), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
                             accounts_slots};
PyType_Spec account_spec = {"metronorm.clock._ticking.Account", sizeof(Account), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, account_slots};
PyType_Spec pauses_spec = {"metronorm.clock._ticking.Pauses", sizeof(Pauses), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, pauses_slots};

State* state(PyObject* module) { return static_cast<State*>(PyModule_GetState(module)); }

int module_traverse(PyObject* module, visitproc visit, void* arg) {
  Py_VISIT(state(module)->accounts);
  return 0;
}

int module_clear(PyObject* module) {
  Py_CLEAR(state(module)->accounts);
  return 0;
}

int module_execute(PyObject* module) {
  PyObject* accounts = PyType_FromModuleAndSpec(module, &accounts_spec, nullptr);
  PyObject* account = PyType_FromModuleAndSpec(module, &account_spec, nullptr);
  PyObject* pauses = PyType_FromModuleAndSpec(module, &pauses_spec, nullptr);
  state(module)->accounts = accounts;
  const bool added = accounts && account && pauses &&
                     !PyModule_AddType(module, as<PyTypeObject>(accounts)) &&
                     !PyModule_AddType(module, as<PyTypeObject>(account)) &&
                     !PyModule_AddType(module, as<PyTypeObject>(pauses));
  Py_XDECREF(account);
  Py_XDECREF(pauses);
  return added ? 0 : -1;
}

PyMethodDef module_methods[] = {
    {"all_plain", reinterpret_cast<PyCFunction>(slot(all_plain)), METH_FASTCALL, nullptr}, {}};

PyModuleDef_Slot module_slots[] = {{Py_mod_exec, slot(module_execute)}, {}};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_ticking",   nullptr,         sizeof(State),
    module_methods,        module_slots, module_traverse, module_clear,  nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__ticking() { return PyModuleDef_Init(&module); }
