-- Adds what one process saw of backends to what all of them know, decides who is left alone, and tells of those.
--
-- KEYS: a hash with a field for each model at a backend, and one with how often what came of the probes of workers
-- ARGV: who asks (a process that takes calls; empty for a worker), milliseconds that a backend is left alone,
--       milliseconds that a worker's probe is waited for (0: workers make none), then for each field of which there is
--       news: the field, good, bad, slow (of the good), bad since the last good, whose calls the bad ones were (an
--       account, or `several`), milliseconds to shut it at once, what a probe found, of a worker's probe its result
--       and its words, and 1 if calls of who asks would have gone there: only who has calls is to make a probe
-- Answers two lists: for each open field, why it is open, milliseconds until the next probe, and 1 if who asks is to
-- make it; and the hash of probes.
local HALF_WINDOW, LEAST, STREAK, PROBE, FORGOTTEN, LONGEST = 15000, 5, 5, 10000, 600000, 60000
local WORKER, WORKERS_PROBE, COUNTED_SECONDS = 'a worker', 15000, 86400
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local asker, pause, patience = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function fresh(before)
    return {at = now, good = 0, bad = 0, slow = 0, good_before = 0, bad_before = 0, slow_before = 0, streak = 0,
            whose = '', whose_before = '', doubted_at = 0, open = '', until_ = 0, openings = 0, prober = '',
            probe_until = 0, probed_at = before and before.probed_at or 0, probed = before and before.probed or '',
            words = before and before.words or ''}
end

local function together(one, other)
    if one == '' then return other end
    return (other == '' or other == one) and one or 'several'
end

local function turn(state)
    if now - state.at < HALF_WINDOW then return end
    local recent = now - state.at < 2 * HALF_WINDOW
    for name, none in pairs({good = 0, bad = 0, slow = 0, whose = ''}) do
        state[name .. '_before'] = recent and state[name] or none
        state[name] = none
    end
    state.at = now
end

local function open(state, why, pause)
    state.open, state.until_, state.prober, state.doubted_at = why, math.max(state.until_, now + pause), '', 0
    state.openings = state.openings + 1
end

-- One customer's calls may fail by themselves, so a probe is to confirm it, unless none comes.
local function fail(state)
    if state.doubted_at == 0 then state.doubted_at = now end
    local several = together(state.whose, state.whose_before) == 'several'
    if several or now - state.doubted_at >= patience then open(state, 'failing', pause) end
end

local function count(state, good, bad, slow, streak, whose)
    state.good, state.bad, state.slow = state.good + good, state.bad + bad, state.slow + slow
    state.streak = good > 0 and streak or state.streak + streak
    state.whose = together(state.whose, whose)
    good, bad = state.good + state.good_before, state.bad + state.bad_before
    if state.streak >= STREAK or (good + bad >= LEAST and bad >= good) then
        fail(state)
    elseif good >= LEAST and 2 * (state.slow + state.slow_before) > good then
        open(state, 'slow', pause)
    elseif state.streak == 0 then
        state.doubted_at = 0
    end
end

-- Two bad probes in a row open it: one may be an accident.
local function doubt(state)
    if state.doubted_at > 0 then open(state, 'failing', pause) else state.doubted_at = now end
end

local wanted = {}
for at = 4, #ARGV, 11 do
    local field, shut, probe, result = ARGV[at], tonumber(ARGV[at + 6]), ARGV[at + 7], ARGV[at + 8]
    local known = redis.call('HGET', KEYS[1], field)
    local state = known and cjson.decode(known) or fresh()
    if probe == 'begun' then
        state.prober, state.probe_until = WORKER, now + WORKERS_PROBE
    elseif probe == 'good' and (state.open ~= '' or result ~= '') then
        state = fresh(state)
    elseif state.open ~= '' then
        if probe == 'none' then
            state.prober = ''
        elseif probe ~= '' then
            open(state, probe == 'slow' and 'slow' or 'failing', math.min(pause * 2 ^ state.openings, LONGEST))
        end
    elseif result ~= '' then
        doubt(state)
    else
        turn(state)
        count(state, tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]),
              ARGV[at + 5])
    end
    if shut > 0 then open(state, 'failing', shut) end
    if result ~= '' then
        state.probed_at, state.probed, state.words = now, result, ARGV[at + 9]
        redis.call('HINCRBY', KEYS[2], field .. ' ' .. result, 1)
        redis.call('EXPIRE', KEYS[2], COUNTED_SECONDS)
    end
    wanted[field] = ARGV[at + 10] == '1'
    state.seen = now
    redis.call('HSET', KEYS[1], field, cjson.encode(state))
end

local answer, all = {}, redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
    local field, state = all[at], cjson.decode(all[at + 1])
    if now - state.seen > FORGOTTEN then
        redis.call('HDEL', KEYS[1], field)
    elseif state.open ~= '' and asker ~= '' then
        local free = state.prober == '' or now >= state.probe_until
        local chosen = wanted[field] and free and now >= state.until_ + patience
        if chosen then
            state.prober, state.probe_until = asker, now + PROBE
            redis.call('HSET', KEYS[1], field, cjson.encode(state))
        end
        local next_probe = math.max(state.until_, state.prober ~= '' and state.probe_until or 0)
        table.insert(answer, {field, state.open, math.max(next_probe - now, 0), chosen and 1 or 0})
    end
end
return {answer, asker ~= '' and redis.call('HGETALL', KEYS[2]) or {}}
