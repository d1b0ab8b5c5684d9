-- Adds what one process saw of backends to what all of them know, decides who is left alone, and tells of those.
--
-- KEYS: a hash with a field for each model at a backend
-- ARGV: who asks, milliseconds that a backend is left alone, then for each field of which there is news: the field,
--       good, bad, slow (of the good), bad since the last good, milliseconds to shut it at once, what a probe found
-- Answers a field, why it is open, milliseconds until the next probe, and 1 if who asks is to make it; for each open one.
local HALF_WINDOW, LEAST, STREAK, PROBE, FORGOTTEN, LONGEST = 15000, 5, 5, 10000, 600000, 60000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local asker, pause = ARGV[1], tonumber(ARGV[2])

local function fresh()
    return {at = now, good = 0, bad = 0, slow = 0, good_before = 0, bad_before = 0, slow_before = 0, streak = 0,
            open = '', until_ = 0, openings = 0, prober = '', probe_until = 0}
end

local function turn(state)
    if now - state.at < HALF_WINDOW then return end
    local recent = now - state.at < 2 * HALF_WINDOW
    for _, name in ipairs({'good', 'bad', 'slow'}) do
        state[name .. '_before'] = recent and state[name] or 0
        state[name] = 0
    end
    state.at = now
end

local function open(state, why, pause)
    state.open, state.until_, state.prober = why, math.max(state.until_, now + pause), ''
    state.openings = state.openings + 1
end

local function count(state, good, bad, slow, streak)
    state.good, state.bad, state.slow = state.good + good, state.bad + bad, state.slow + slow
    state.streak = good > 0 and streak or state.streak + streak
    good, bad = state.good + state.good_before, state.bad + state.bad_before
    if state.streak >= STREAK or (good + bad >= LEAST and bad >= good) then
        open(state, 'failing', pause)
    elseif good >= LEAST and 2 * (state.slow + state.slow_before) > good then
        open(state, 'slow', pause)
    end
end

for at = 3, #ARGV, 7 do
    local field, shut, probe = ARGV[at], tonumber(ARGV[at + 5]), ARGV[at + 6]
    local known = redis.call('HGET', KEYS[1], field)
    local state = known and cjson.decode(known) or fresh()
    if state.open == '' then
        turn(state)
        count(state, tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]))
    elseif probe == 'good' then
        state = fresh()
    elseif probe == 'bad' then
        open(state, state.open, math.min(pause * 2 ^ state.openings, LONGEST))
    elseif probe == 'none' then
        state.prober = ''
    end
    if shut > 0 then open(state, 'failing', shut) end
    state.seen = now
    redis.call('HSET', KEYS[1], field, cjson.encode(state))
end

local answer, all = {}, redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
    local field, state = all[at], cjson.decode(all[at + 1])
    if now - state.seen > FORGOTTEN then
        redis.call('HDEL', KEYS[1], field)
    elseif state.open ~= '' then
        local chosen = now >= state.until_ and (state.prober == '' or now >= state.probe_until)
        if chosen then
            state.prober, state.probe_until = asker, now + PROBE
            redis.call('HSET', KEYS[1], field, cjson.encode(state))
        end
        local next_probe = math.max(state.until_, state.prober ~= '' and state.probe_until or 0)
        table.insert(answer, {field, state.open, math.max(next_probe - now, 0), chosen and 1 or 0})
    end
end
return answer
